import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { status } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { nqnOf, volumeId } from '../../src/ids.ts'
import { Mounts } from '../../src/node/mounts.ts'
import { NvmeAttacher } from '../../src/node/nvme.ts'
import { unstageVolume } from '../../src/node/unstage-volume.ts'
import type { NodeParts } from '../../src/plugin.ts'
import type { Attacher } from '../../src/provider.ts'
import type { RunProgram } from '../../src/run-program.ts'

const ID = volumeId('one')
const STAGING = '/staging'
/** The staged file system, on a disk with a number that no node here has. */
const STAGED = `97 22 259:3 / ${STAGING} rw - ext4 /dev/nvme7n1 rw\n`
const PUBLISHED = '98 22 259:3 / /pods/a/mount rw - ext4 /dev/nvme7n1 rw\n'

/** A node with this table of mounts; `done` has what was called, in order. */
function node(t: ExecutionContext, table: string, attached: Attacher['attached'] = async () => undefined) {
  const directory = mkdtempSync(join(tmpdir(), 'ublk-csi-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 'mountinfo')
  writeFileSync(path, table)
  const done: string[] = []
  const run: RunProgram = async (program, args) => {
    done.push([program, ...args].join(' '))
    if (program === 'umount') {
      const lines = readFileSync(path, 'utf8').split('\n')
      writeFileSync(path, lines.filter((line) => !line.includes(` ${args[0]} `)).join('\n'))
    }
    return { status: 0, stdout: Buffer.alloc(0), stderr: '' }
  }
  const attacher = { attached, detach: async () => void done.push('detach') } as Partial<Attacher> as Attacher
  const unstage = (from = attacher, by = run) => {
    const parts = { attacher: from, mounts: new Mounts(by, path) } as Partial<NodeParts> as NodeParts
    return unstageVolume({ volumeId: ID, stagingTargetPath: STAGING }, parts, AbortSignal.timeout(20_000))
  }
  return { directory, done, run, unstage }
}

test('what is mounted of a disk that is gone is unmounted before the volume is detached', async (t) => {
  const { done, unstage } = node(t, STAGED)
  await unstage()
  t.deepEqual(done, [`umount ${STAGING}`, 'detach'])
})

test('a disk that is gone and still published is left as it is', async (t) => {
  const { done, unstage } = node(t, STAGED + PUBLISHED)
  const error = await t.throwsAsync<Error & { code: status }>(unstage())
  t.is(error?.code, status.FAILED_PRECONDITION)
  t.regex(error!.message, /published at \/pods\/a\/mount/)
  t.deepEqual(done, [])
})

test('nothing is detached of which nobody can say whether it is attached', async (t) => {
  const { done, unstage } = node(t, STAGED, async () => {
    throw new Error('no daemon')
  })
  await t.throwsAsync(unstage(), { message: 'no daemon' })
  t.deepEqual(done, [])
})

test('the mount of an NVMe disk whose server stayed away is taken off, so that the volume can be staged again', async (t) => {
  const { directory, done, run, unstage } = node(t, STAGED)
  mkdirSync(join(directory, 'class', 'nvme-subsystem'), { recursive: true })
  await unstage(new NvmeAttacher({ hostNqn: 'nqn.2014-08.org.nvmexpress:uuid:1', run, sysfs: directory }))
  t.deepEqual(done, [`umount ${STAGING}`])
})

test('a server that is away has its time until what is mounted has been written, and none after', async (t) => {
  const { directory, done, run, unstage } = node(t, STAGED)
  const [subsystem, controller] = [join(directory, 'class', 'nvme-subsystem', 'nvme-subsys7'), join(directory, 'class', 'nvme', 'nvme7')]
  for (const path of [join(subsystem, 'nvme7'), controller]) mkdirSync(path, { recursive: true })
  writeFileSync(join(subsystem, 'subsysnqn'), `${nqnOf(ID)}\n`)
  writeFileSync(join(subsystem, 'nvme7', 'state'), 'connecting\n')
  writeFileSync(join(controller, 'ctrl_loss_tmo'), '600')
  const limits: string[] = []
  const looking: RunProgram = (program, args, options) => {
    limits.push(`${program} ${readFileSync(join(controller, 'ctrl_loss_tmo'), 'utf8')}`)
    if (program === 'nvme') rmSync(subsystem, { recursive: true })
    return run(program, args, options)
  }
  await unstage(new NvmeAttacher({ hostNqn: 'nqn.2014-08.org.nvmexpress:uuid:1', run: looking, sysfs: directory }), looking)
  t.deepEqual(limits, ['umount 600', 'nvme 0'])
  t.deepEqual(done, [`umount ${STAGING}`, `nvme disconnect --nqn=${nqnOf(ID)}`])
})
