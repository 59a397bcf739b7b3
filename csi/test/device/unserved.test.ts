/** A volume whose device nobody serves is not given up: what its file system holds back is there when it is served again. In the VM. */

import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { CreateVolumeResponse } from '../../src/generated/csi.ts'
import { startDaemon } from '../support/backends.ts'
import { CsiClient, mountAccess } from '../support/client.ts'
import { startProgram } from '../support/programs.ts'

const directory = '/run/unserved'
const pool = join(directory, 'pool')

test('a volume is not unstaged while its device has no server, and nothing is lost', async (t) => {
  t.timeout(300_000)
  const first = await startDaemon(pool)
  const socket = join(directory, 'csi.sock')
  const plugin = startProgram([
    '--mode',
    'all',
    '--provider',
    'ublk',
    '--node-id',
    'node-1',
    '--endpoint',
    `unix://${socket}`,
    ...first.flags,
  ])
  await plugin.says('"serving"')
  const client = new CsiClient(socket)
  const volumeCapability = mountAccess('ext4')
  const { volume } = await client.call<CreateVolumeResponse>('controller', 'createVolume', {
    name: 'one',
    capacityRange: { requiredBytes: 64n << 20n },
    volumeCapabilities: [volumeCapability],
  })
  const { volumeId, volumeContext } = volume!
  const stagingTargetPath = join(directory, 'staging')
  mkdirSync(stagingTargetPath)
  const stage = () => client.call('node', 'nodeStageVolume', { volumeId, stagingTargetPath, volumeCapability, volumeContext })
  const unstage = () => client.call('node', 'nodeUnstageVolume', { volumeId, stagingTargetPath })
  await stage()
  const data = randomBytes(1 << 20)
  writeFileSync(join(stagingTargetPath, 'data'), data)

  await first.running.end('SIGKILL')
  const image = join(pool, 'volumes', `${volumeId}.img`)
  renameSync(image, `${image}.away`)
  const second = await startDaemon(pool, true)
  t.regex(second.running.text(), /the device of the volume is not back/)
  await t.throwsAsync(unstage())
  t.regex(readFileSync('/proc/self/mountinfo', 'utf8'), / \/run\/unserved\/staging /)

  renameSync(`${image}.away`, image)
  await unstage()
  t.notRegex(readFileSync('/proc/self/mountinfo', 'utf8'), / \/run\/unserved\/staging /)
  await stage()
  t.true(readFileSync(join(stagingTargetPath, 'data')).equals(data))

  await unstage()
  await client.call('controller', 'deleteVolume', { volumeId })
  client.close()
  await plugin.end()
  await second.running.end()
})
