import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { status } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { VolumeCapability_AccessMode_Mode as Mode, type VolumeCapability } from '../../src/generated/csi.ts'
import { volumeId } from '../../src/ids.ts'
import { Mounts } from '../../src/node/mounts.ts'
import { publishVolume } from '../../src/node/publish-volume.ts'
import type { NodeParts } from '../../src/plugin.ts'
import type { Attacher } from '../../src/provider.ts'
import { mountAccess } from '../support/client.ts'

const ID = volumeId('one')
/** The file system of /dev/null, whose number is 1:3. */
const at = (path: string): string => `97 22 1:3 / ${path} rw - ext4 /dev/null rw\n`
/** A directory that is there: it is looked into. */
const STAGING = tmpdir()
const STAGED = at(STAGING)
const SUBPATH = at('/pods/a/volume-subpaths/volume/container/0')
const FOR_ONE_POD = mountAccess('ext4', Mode.SINGLE_NODE_SINGLE_WRITER)

/** Publishes at `targetPath`, on a node with this table of mounts that can do nothing but look. */
function publish(t: ExecutionContext, table: string, targetPath: string, volumeCapability: VolumeCapability) {
  const directory = mkdtempSync(join(tmpdir(), 'ublk-csi-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 'mountinfo')
  writeFileSync(path, table)
  const device = { path: '/dev/null', bytes: 1n, verify: async () => {} }
  const attacher = { attached: async () => device } as Partial<Attacher> as Attacher
  const mounts = new Mounts(async (program) => {
    throw new Error(`${program} was called`)
  }, path)
  const parts = { attacher, mounts } as Partial<NodeParts> as NodeParts
  const request = { volumeId: ID, stagingTargetPath: STAGING, targetPath, readonly: false, volumeCapability }
  const rest = { publishContext: {}, secrets: {}, volumeContext: {} }
  return publishVolume({ ...request, ...rest }, parts, AbortSignal.timeout(20_000))
}

test('a volume for one pod is published to it again, though the kubelet has bound a part of it for that pod', async (t) => {
  t.deepEqual(await publish(t, STAGED + at('/pods/a/mount') + SUBPATH, '/pods/a/mount', FOR_ONE_POD), {})
})

test('a volume for one pod is not published to a second', async (t) => {
  for (const others of [at('/pods/a/mount'), at('/pods/a/mount') + SUBPATH, SUBPATH]) {
    const error = await t.throwsAsync<Error & { code: status }>(publish(t, STAGED + others, '/pods/b/mount', FOR_ONE_POD))
    t.is(error?.code, status.FAILED_PRECONDITION, error?.message)
    t.regex(error!.message, /for one pod/)
  }
})
