/** The NVMe/TCP attacher over trees as sysfs shows them: which disk it takes and which commands it gives. See also device/nvme.test.ts. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { status } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import type { CsiError } from '../../src/errors.ts'
import { nqnOf, volumeId } from '../../src/ids.ts'
import { NvmeAttacher } from '../../src/node/nvme.ts'
import { findSubsystem } from '../../src/node/nvme-sysfs.ts'
import { ProgramError, type RunProgram } from '../../src/run-program.ts'

const ID = volumeId('nvme')
const NQN = nqnOf(ID)
const CONTEXT = { nqn: NQN, address: '10.0.0.1', port: '4420', nsid: '1', bytes: '1048576' }
const { signal } = new AbortController()

/** What may be changed of a connected subsystem. */
class Tree {
  readonly root: string
  readonly commands: string[] = []
  /** Done when nvme is run. */
  effect: (command: string) => void = () => {}

  constructor(t: ExecutionContext) {
    this.root = mkdtempSync(join(tmpdir(), 'ublk-csi-sysfs-'))
    t.teardown(() => rmSync(this.root, { recursive: true }))
  }

  readonly run: RunProgram = async (program, args) => {
    const command = [program, ...args].join(' ')
    this.commands.push(command)
    this.effect(command)
    return { status: 0, stdout: Buffer.alloc(0), stderr: '' }
  }

  put(path: string, text: string): void {
    mkdirSync(join(this.root, path, '..'), { recursive: true })
    writeFileSync(join(this.root, path), `${text}\n`)
  }

  read = (path: string): string => readFileSync(join(this.root, path), 'utf8')

  controller(number: number, state = 'live', nqn = NQN): string {
    const subsystem = `class/nvme-subsystem/nvme-subsys${number}`
    this.put(`${subsystem}/subsysnqn`, nqn)
    this.put(`${subsystem}/nvme${number}/state`, state)
    this.put(`class/nvme/nvme${number}/ctrl_loss_tmo`, '600')
    return subsystem
  }

  disk(place: string, name: string, nsid: number, sectors = 2048): void {
    this.put(`${place}/${name}/nsid`, String(nsid))
    this.put(`class/block/${name}/size`, String(sectors))
  }

  forget(number: number): void {
    rmSync(join(this.root, `class/nvme-subsystem/nvme-subsys${number}`), { recursive: true })
  }

  attacher(ctrlLossSeconds?: number): NvmeAttacher {
    const settings = ctrlLossSeconds === undefined ? {} : { ctrlLossSeconds }
    return new NvmeAttacher({ hostNqn: 'nqn.2014-08.org.example:unit', ...settings, run: this.run, sysfs: this.root })
  }
}

const refused = async (t: ExecutionContext, code: status, call: Promise<unknown>): Promise<void> => {
  t.is((await t.throwsAsync<CsiError>(call))?.code, code)
}

test('a disk is the head with native multipath, the controller’s own without, and never a path to one', async (t) => {
  const tree = new Tree(t)
  const head = tree.controller(3)
  tree.disk(head, 'nvme3n2', 7)
  tree.disk(`${head}/nvme3`, 'nvme3c3n2', 7)
  t.deepEqual([...(await findSubsystem(NQN, tree.root))!.disks], [[7, 'nvme3n2']])
  rmSync(join(tree.root, head, 'nvme3n2'), { recursive: true })
  t.is(await tree.attacher().attached(ID), undefined, 'a path is not the disk')

  const plain = new Tree(t)
  plain.disk(`${plain.controller(0)}/nvme0`, 'nvme0n1', 1)
  t.deepEqual([...(await findSubsystem(NQN, plain.root))!.disks], [[1, 'nvme0n1']])
  t.is((await plain.attacher().attached(ID))?.path, '/dev/nvme0n1')
})

test('a subsystem of another NQN, or one that lost its last controller, is not it', async (t) => {
  const tree = new Tree(t)
  tree.disk(tree.controller(0, 'live', `${NQN}0`), 'nvme0n1', 1)
  t.is(await tree.attacher().attached(ID), undefined)
  const gone = tree.controller(1)
  tree.disk(gone, 'nvme1n1', 1)
  rmSync(join(tree.root, gone, 'nvme1'), { recursive: true })
  t.is(await tree.attacher().attached(ID), undefined)
})

test('a disk is looked at again before it is written to: its subsystem, namespace, controller and size', async (t) => {
  const tree = new Tree(t)
  const head = tree.controller(0)
  tree.disk(head, 'nvme0n1', 1)
  const device = (await tree.attacher().attached(ID))!
  t.is(device.bytes, 1_048_576n)
  await device.verify()

  tree.put('class/block/nvme0n1/size', '4096')
  await refused(t, status.DATA_LOSS, device.verify())
  tree.put('class/block/nvme0n1/size', '2048')
  tree.put(`${head}/nvme0/state`, 'connecting')
  await refused(t, status.UNAVAILABLE, device.verify())
  tree.put(`${head}/nvme0/state`, 'live')
  tree.put(`${head}/nvme0n1/nsid`, '2')
  await refused(t, status.DATA_LOSS, device.verify())
  tree.put(`${head}/nvme0n1/nsid`, '1')
  tree.put(`${head}/subsysnqn`, nqnOf(volumeId('another')))
  await refused(t, status.DATA_LOSS, device.verify())
})

test('only the subsystem of the volume is disconnected, and only where it is connected', async (t) => {
  const tree = new Tree(t)
  tree.controller(0, 'live', 'nqn.2014-08.org.example:root-of-this-node')
  tree.controller(2, 'live', nqnOf(volumeId('another')))
  await tree.attacher().detach(ID, signal)
  t.deepEqual(tree.commands, [])
  tree.controller(1)
  tree.effect = () => tree.forget(1)
  await tree.attacher().detach(ID, signal)
  t.deepEqual(tree.commands, [`nvme disconnect --nqn=${NQN}`])
  t.is(tree.read('class/nvme/nvme1/ctrl_loss_tmo'), '600\n')
})

test('a dead controller is not waited for: it is given up before it is disconnected', async (t) => {
  const tree = new Tree(t)
  tree.controller(0, 'connecting')
  tree.controller(1, 'connecting', nqnOf(volumeId('another')))
  const patience: string[] = []
  tree.effect = () => {
    patience.push(...[0, 1].map((number) => tree.read(`class/nvme/nvme${number}/ctrl_loss_tmo`).trim()))
    tree.forget(0)
  }
  await tree.attacher().detach(ID, signal)
  t.deepEqual(patience, ['0', '600'])
})

test('one that connects again is not connected a second time', async (t) => {
  const tree = new Tree(t)
  const head = tree.controller(0, 'connecting')
  tree.disk(head, 'nvme0n1', 1)
  setTimeout(() => tree.put(`${head}/nvme0/state`, 'live'), 200)
  // It is found, and there is no such node in /dev here.
  await t.throwsAsync(tree.attacher().attach(ID, CONTEXT, AbortSignal.timeout(800)), { name: 'TimeoutError' })
  t.deepEqual(tree.commands, [])
})

test('a connection is made with names of this host, and a refusal is told with what was said', async (t) => {
  t.timeout(60_000)
  const tree = new Tree(t)
  tree.effect = (command) => {
    throw new ProgramError('nvme', [command], 1, 'ended with status 1', 'could not add new controller')
  }
  const error = await t.throwsAsync<CsiError>(tree.attacher(-1).attach(ID, CONTEXT, signal))
  t.is(error?.code, status.UNAVAILABLE)
  t.regex(error?.message ?? '', /could not add new controller.*3 attempts/)
  t.is(tree.commands.length, 3)
  t.regex(
    tree.commands[0]!,
    /^nvme connect --transport=tcp --traddr=10\.0\.0\.1 --trsvcid=4420 --nqn=\S+ --hostnqn=nqn\.2014-08\.org\.example:unit --hostid=[0-9a-f-]{36} --ctrl-loss-tmo=-1 /,
  )
})

for (const [name, change, code] of [
  ['the NQN of another volume', { nqn: nqnOf(volumeId('another')) }, status.FAILED_PRECONDITION],
  ['an address with an option', { address: '--nqn=x' }, status.INVALID_ARGUMENT],
  ['a port that is none', { port: '65536' }, status.INVALID_ARGUMENT],
  ['a namespace that is none', { nsid: '0' }, status.INVALID_ARGUMENT],
  ['a size that is none', { bytes: '-1' }, status.INVALID_ARGUMENT],
] as const) {
  test(`nothing is connected for a volume_context with ${name}`, async (t) => {
    const tree = new Tree(t)
    await refused(t, code, tree.attacher().attach(ID, { ...CONTEXT, ...change }, signal))
    t.deepEqual(tree.commands, [])
  })
}
