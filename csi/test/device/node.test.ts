/** What a node does to volumes, call by call: on real disks of a real daemon, with real mounts. In the VM, after `make build`. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { status } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import type { CsiError } from '../../src/errors.ts'
import {
  VolumeCapability_AccessMode_Mode as Mode,
  NodePublishVolumeRequest,
  NodeStageVolumeRequest,
  type VolumeCapability,
} from '../../src/generated/csi.ts'
import { volumeId } from '../../src/ids.ts'
import { expandVolume } from '../../src/node/expand-volume.ts'
import { getVolumeStats } from '../../src/node/get-volume-stats.ts'
import { Mounts } from '../../src/node/mounts.ts'
import { publishVolume } from '../../src/node/publish-volume.ts'
import { stageVolume } from '../../src/node/stage-volume.ts'
import { Tools } from '../../src/node/tools.ts'
import { unpublishVolume } from '../../src/node/unpublish-volume.ts'
import { unstageVolume } from '../../src/node/unstage-volume.ts'
import type { NodeParts } from '../../src/plugin.ts'
import type { AttachedDevice, VolumeWish } from '../../src/provider.ts'
import { UblkAttacher } from '../../src/ublk/attacher.ts'
import { DaemonClient } from '../../src/ublk/client.ts'
import { UblkProvider } from '../../src/ublk/provider.ts'
import { type Backend, startDaemon } from '../support/backends.ts'
import { blockAccess, mountAccess } from '../support/client.ts'
import { sh } from '../support/pool.ts'
import { startProgram } from '../support/programs.ts'

const ROOT = `/run/csi-node-${process.pid}`
const POOL = `${ROOT}/pool`
const MIB = 1024n * 1024n
const GROUP = 4321
const { signal } = new AbortController()

const client = new DaemonClient(`${POOL}.sock`)
const provider = new UblkProvider(client)
const node: NodeParts = {
  nodeId: 'node-1',
  maxVolumes: 0,
  attacher: new UblkAttacher(client, 'node-1'),
  mounts: new Mounts(),
  tools: new Tools(),
  topology: null,
}
let daemon: Backend

test.before(async (t) => {
  t.timeout(300_000)
  daemon = await startDaemon(POOL)
})
test.after.always(() => daemon?.running.end())
test.beforeEach((t) => t.timeout(300_000))

/** A volume and the calls of a kubelet for it. */
class Used {
  readonly id: string
  readonly #directory: string
  readonly #context: Record<string, string>
  readonly #published = new Set<string>()

  private constructor(name: string, context: Record<string, string>) {
    this.id = volumeId(name)
    this.#directory = `${ROOT}/${name}`
    this.#context = context
  }

  static async create(t: ExecutionContext, name: string, mebibytes = 64n, source?: VolumeWish['source']): Promise<Used> {
    const wish = { id: volumeId(name), bytes: mebibytes * MIB, parameters: {}, ...(source === undefined ? {} : { source }) }
    const { context, blank } = await provider.createVolume(wish, signal)
    t.is(blank, source === undefined)
    const volume = new Used(name, { ...context, blank: String(blank) })
    mkdirSync(volume.#directory, { recursive: true })
    t.teardown(() => volume.remove())
    return volume
  }

  attach(): Promise<AttachedDevice> {
    return node.attacher.attach(this.id, this.#context, signal)
  }

  path(name: string): string {
    return `${this.#directory}/${name}`
  }

  async stage(volumeCapability: VolumeCapability, parts: NodeParts = node): Promise<void> {
    const given = { volumeId: this.id, stagingTargetPath: this.path('staging'), volumeCapability, volumeContext: this.#context }
    await stageVolume(NodeStageVolumeRequest.fromPartial(given), parts, signal)
  }

  async publish(name: string, volumeCapability: VolumeCapability, readonly = false): Promise<string> {
    const targetPath = this.path(name)
    const given = { volumeId: this.id, stagingTargetPath: this.path('staging'), targetPath, volumeCapability, readonly }
    this.#published.add(name)
    await publishVolume(NodePublishVolumeRequest.fromPartial(given), node, signal)
    return targetPath
  }

  async unpublish(name: string): Promise<void> {
    await unpublishVolume({ volumeId: this.id, targetPath: this.path(name) }, node, signal)
  }

  async unstage(): Promise<void> {
    await unstageVolume({ volumeId: this.id, stagingTargetPath: this.path('staging') }, node, signal)
  }

  async remove(): Promise<void> {
    for (const name of this.#published) await this.unpublish(name)
    await this.unstage()
    await provider.deleteVolume(this.id, signal)
  }
}

async function refused(t: ExecutionContext, code: status, call: Promise<unknown>, message: RegExp): Promise<void> {
  const error = await t.throwsAsync<CsiError>(call)
  t.is(error?.code, code, error?.stack)
  t.regex(error?.message ?? '', message)
}

const withGroup = (fsType: string): VolumeCapability => ({
  accessType: { $case: 'mount', value: { fsType, mountFlags: [], volumeMountGroup: String(GROUP) } },
  accessMode: { mode: Mode.SINGLE_NODE_WRITER },
})

test.serial('a group gets the files that are there and those to come, and nothing outside that a link points at', async (t) => {
  const volume = await Used.create(t, 'group')
  const outside = `${ROOT}/outside`
  writeFileSync(outside, 'secret', { mode: 0o600 })
  await volume.stage(mountAccess())
  const before = await volume.publish('before', mountAccess())
  mkdirSync(`${before}/deep`, { mode: 0o700 })
  writeFileSync(`${before}/deep/file`, 'of root', { mode: 0o600 })
  writeFileSync(`${before}/program`, '', { mode: 0o700 })
  chmodSync(`${before}/program`, 0o4700)
  symlinkSync(outside, `${before}/link`)
  await volume.unpublish('before')
  await volume.unstage()

  await volume.stage(withGroup('ext4'))
  const target = await volume.publish('target', withGroup('ext4'))
  const asMember = (command: string): string => sh('setpriv', '--reuid=1000', '--regid=1000', `--groups=${GROUP}`, 'sh', '-c', command)
  t.is(asMember(`cat ${target}/deep/file; echo of a member >> ${target}/deep/file; echo new > ${target}/deep/new`), 'of root')
  const { gid, mode } = statSync(`${target}/deep/new`)
  t.is(gid, GROUP, 'a new file is not the group’s')
  t.is(mode & 0o7000, 0)
  t.is(statSync(`${target}/program`).mode & 0o7777, 0o4760)
  t.like(statSync(outside), { gid: 0, mode: 0o100600 })
})

test.serial('a volume for one pod is shown to one at a time, and stays while somebody uses it', async (t) => {
  const volume = await Used.create(t, 'one-pod')
  const access = mountAccess('ext4', Mode.SINGLE_NODE_SINGLE_WRITER)
  await volume.stage(access)
  await refused(t, status.NOT_FOUND, (await Used.create(t, 'never-staged')).publish('a', access), /stage it first/)
  const first = await volume.publish('first', access)
  await volume.publish('first', access)
  await refused(t, status.FAILED_PRECONDITION, volume.publish('second', access), /for one pod/)
  writeFileSync(`${first}/file`, 'kept')
  await refused(t, status.FAILED_PRECONDITION, volume.unstage(), /still published at/)
  t.is(readFileSync(`${first}/file`, 'utf8'), 'kept')
  await volume.unpublish('first')
  const second = await volume.publish('second', access)
  t.is(readFileSync(`${second}/file`, 'utf8'), 'kept')

  // A container that was started meanwhile has the mounts of that moment, which nobody else sees.
  const other = spawn('unshare', ['--mount', 'sh', '-c', 'echo here; exec sleep 100'], { stdio: ['ignore', 'pipe', 'ignore'] })
  await once(other.stdout, 'data')
  await volume.unpublish('second')
  await refused(t, status.FAILED_PRECONDITION, volume.unstage(), /is held by another program or in another mount namespace/)
  t.not(await node.attacher.attached(volume.id), undefined)
  other.kill('SIGKILL')
  await once(other, 'close')
  await volume.unstage()
  t.is(await node.attacher.attached(volume.id), undefined)
})

test.serial('what is published to be read cannot be written, and options of a mount are taken', async (t) => {
  const volume = await Used.create(t, 'read-only')
  const access = mountAccess('ext4', Mode.SINGLE_NODE_MULTI_WRITER, ['noatime', 'commit=7'])
  await volume.stage(access)
  await volume.stage(access)
  const staged = await node.mounts.at(volume.path('staging'))
  t.true(staged?.options.includes('noatime') && staged.superOptions.includes('commit=7'))
  const [writable, readable] = [await volume.publish('writable', access), await volume.publish('readable', access, true)]
  writeFileSync(`${writable}/file`, 'written')
  t.is(readFileSync(`${readable}/file`, 'utf8'), 'written')
  t.throws(() => writeFileSync(`${readable}/file`, ''), { code: 'EROFS' })
  await refused(t, status.ALREADY_EXISTS, volume.publish('readable', access), /is published read-only/)
  await refused(t, status.ALREADY_EXISTS, volume.publish('writable', access, true), /is published writable/)
  for (const name of ['writable', 'readable']) await volume.unpublish(name)
  await volume.unstage()

  const reader = mountAccess('ext4', Mode.SINGLE_NODE_READER_ONLY)
  await volume.stage(reader)
  t.true((await node.mounts.at(volume.path('staging')))?.superOptions.includes('ro'))
  t.throws(() => writeFileSync(`${volume.path('staging')}/file`, ''), { code: 'EROFS' })
  t.is(readFileSync(`${await volume.publish('read', reader)}/file`, 'utf8'), 'written')
})

test.serial('a raw disk is published to be read or to be written, not both', async (t) => {
  const volume = await Used.create(t, 'raw', 16n)
  await volume.stage(blockAccess())
  const reading = await volume.publish('reading', blockAccess(), true)
  t.throws(() => sh('dd', 'if=/dev/urandom', `of=${reading}`, 'bs=4096', 'count=1', 'oflag=direct', 'conv=notrunc'))
  t.true(readFileSync(reading).every((byte) => byte === 0))
  await refused(t, status.ALREADY_EXISTS, volume.publish('writing', blockAccess()), /is published read-only/)
  await volume.unpublish('reading')
  const writing = await volume.publish('writing', blockAccess())
  await volume.publish('writing', blockAccess())
  writeFileSync(writing, 'written', { flag: 'r+' })
  await refused(t, status.ALREADY_EXISTS, volume.publish('reading', blockAccess(), true), /is published writable/)
  await refused(t, status.FAILED_PRECONDITION, volume.unstage(), /still published at/)
  const { usage } = await getVolumeStats({ volumeId: volume.id, volumePath: writing, stagingTargetPath: '' }, node)
  t.is(usage[0]?.total, 16n * MIB)
  await volume.unpublish('writing')
  await volume.unstage()
  await volume.stage(blockAccess())
  t.is(readFileSync(await volume.publish('again', blockAccess())).toString('utf8', 0, 7), 'written')
})

test.serial('an ext4 that went read-only after an error is reported and not published again', async (t) => {
  const volume = await Used.create(t, 'failed')
  const access = mountAccess('ext4', Mode.SINGLE_NODE_WRITER, ['errors=remount-ro'])
  await volume.stage(access)
  const target = await volume.publish('target', access)
  const stats = () => getVolumeStats({ volumeId: volume.id, volumePath: target, stagingTargetPath: '' }, node)
  const { usage, volumeCondition } = await stats()
  t.deepEqual(volumeCondition, { abnormal: false, message: 'mounted' })
  const [bytes, inodes] = usage
  t.true(bytes!.total > 40n * MIB && bytes!.total <= 64n * MIB && bytes!.available < bytes!.total && bytes!.used < bytes!.total / 4n)
  t.true(inodes!.total > 1000n && inodes!.used < 100n && inodes!.available + inodes!.used === inodes!.total)
  const { path } = (await node.attacher.attached(volume.id))!
  writeFileSync(`/sys/fs/ext4/${path.slice('/dev/'.length)}/trigger_fs_error`, 'for a test')
  t.throws(() => writeFileSync(`${target}/file`, ''), { code: 'EROFS' })
  t.true((await stats()).volumeCondition?.abnormal)
  await refused(t, status.FAILED_PRECONDITION, volume.publish('another', access), /is read-only, after an error/)
})

test.serial('an xfs that has shut itself down is reported and not published again', async (t) => {
  const volume = await Used.create(t, 'shut-down', 300n)
  await volume.stage(mountAccess('xfs'))
  const target = await volume.publish('target', mountAccess('xfs'))
  sh('xfs_io', '-x', '-c', 'shutdown', target)
  const { volumeCondition } = await getVolumeStats({ volumeId: volume.id, volumePath: target, stagingTargetPath: '' }, node)
  t.true(volumeCondition?.abnormal)
  await refused(t, status.FAILED_PRECONDITION, volume.publish('another', mountAccess('xfs')), /does not answer/)
})

test.serial('copies of a btrfs are used beside their original, each with its own data', async (t) => {
  const access = mountAccess('btrfs')
  const source = await Used.create(t, 'source', 256n)
  await source.stage(access)
  const original = await source.publish('target', access)
  writeFileSync(`${original}/name`, 'source')
  const clone = await Used.create(t, 'clone', 256n, { kind: 'volume', id: source.id })
  await clone.stage(access)
  const copied = await clone.publish('target', access)
  t.is(readFileSync(`${copied}/name`, 'utf8'), 'source')
  writeFileSync(`${copied}/name`, 'clone')
  await clone.unpublish('target')
  await clone.unstage()
  t.is(readFileSync(`${original}/name`, 'utf8'), 'source')

  // A copy of the copy has the UUID that the copy was given, and is mounted first.
  const second = await Used.create(t, 'second', 256n, { kind: 'volume', id: clone.id })
  await second.stage(access)
  writeFileSync(`${await second.publish('target', access)}/name`, 'second')
  await clone.stage(access)
  t.is(readFileSync(`${await clone.publish('target', access)}/name`, 'utf8'), 'clone')
  t.is(readFileSync(`${original}/name`, 'utf8'), 'source')
  // Since Linux 6.7 the kernel would mount them under one UUID, too; those before would not.
  const uuids = [source, clone, second].map(async ({ id }) =>
    sh('blkid', '-p', '-o', 'value', '-s', 'UUID', (await node.attacher.attached(id))!.path),
  )
  t.is(new Set(await Promise.all(uuids)).size, 3)
})

test.serial('a copy of a btrfs that was in use has what was synced just before', async (t) => {
  const access = mountAccess('btrfs')
  const source = await Used.create(t, 'busy', 256n)
  await source.stage(access)
  const file = openSync(`${await source.publish('target', access)}/late`, 'w')
  const clone = await Used.create(t, 'late', 256n, { kind: 'volume', id: source.id })
  // The disk as a snapshot at this moment has it: the file is in the log and nowhere else.
  writeSync(file, 'synced')
  fsyncSync(file)
  const [from, to] = [(await node.attacher.attached(source.id))!.path, (await clone.attach()).path]
  sh('dd', `if=${from}`, `of=${to}`, 'bs=1M', 'iflag=direct', 'oflag=direct')
  closeSync(file)
  t.notRegex(sh('btrfs', 'inspect-internal', 'dump-super', to), /^log_root\s+0$/m)
  await clone.stage(access)
  t.is(readFileSync(`${await clone.publish('target', access)}/late`, 'utf8'), 'synced')
})

test.serial('a btrfs is only made as large as the kernel lets it grow', async (t) => {
  const volume = await Used.create(t, 'small', 255n)
  await refused(t, status.FAILED_PRECONDITION, volume.stage(mountAccess('btrfs')), /btrfs needs 256 MiB/)
})

test.serial('nothing is mounted where something else is, nor from a disk that was replaced meanwhile', async (t) => {
  const volume = await Used.create(t, 'guarded')
  const staging = volume.path('staging')
  mkdirSync(staging)
  sh('mount', '-t', 'tmpfs', 'something', staging)
  await refused(t, status.FAILED_PRECONDITION, volume.stage(mountAccess()), /is a mount of something/)
  t.is((await node.mounts.at(staging))?.source, 'something')
  sh('umount', staging)
  await volume.stage(mountAccess())
  await volume.unstage()

  let looks = 0
  const attacher = {
    ...node.attacher,
    attach: async (...given: Parameters<UblkAttacher['attach']>) => ({
      ...(await node.attacher.attach(...given)),
      async verify() {
        looks += 1
        if (looks === 2) throw new Error('another disk')
      },
    }),
  } as NodeParts['attacher']
  await t.throwsAsync(volume.stage(mountAccess(), { ...node, attacher }), { message: 'another disk' })
  t.is(await node.mounts.at(staging), undefined)
})

test.serial('an expansion stays within its limit and at a path of its volume', async (t) => {
  const volume = await Used.create(t, 'expanded', 32n)
  await volume.stage(mountAccess())
  const expand = (volumePath: string, limitBytes: bigint) =>
    expandVolume(
      {
        volumeId: volume.id,
        volumePath,
        capacityRange: { requiredBytes: 32n * MIB, limitBytes },
        stagingTargetPath: '',
        volumeCapability: undefined,
        secrets: {},
      },
      node,
      signal,
    )
  await refused(t, status.OUT_OF_RANGE, expand(volume.path('staging'), 32n * MIB - 1n), /more than the limit/)
  await refused(t, status.NOT_FOUND, expand('/run', 0n), /is not at \/run/)
  t.is((await expand(volume.path('staging'), 32n * MIB)).capacityBytes, 32n * MIB)
})

test.serial('a daemon after a kill -9 serves the same disks, and none that only looks like one of its own', async (t) => {
  const [mine, other] = [await Used.create(t, 'mine'), await Used.create(t, 'other', 16n)]
  await mine.stage(mountAccess())
  const target = await mine.publish('target', mountAccess())
  writeFileSync(`${target}/file`, 'not on disk yet')
  await other.stage(blockAccess())
  writeFileSync(await other.publish('target', blockAccess()), 'of the other', { flag: 'r+' })
  await other.unpublish('target')
  const attached = await client.ask('attach', { id: mine.id, nodeId: 'node-1' }, signal)
  t.deepEqual(await client.ask('attach', { id: mine.id, nodeId: 'node-1' }, signal), attached)
  await refused(t, status.FAILED_PRECONDITION, provider.deleteVolume(mine.id, signal), /is attached/)
  const second = startProgram(['--mode', 'daemon', '--pool', POOL, '--socket', `${ROOT}/second.sock`])
  await once(second.child, 'close')
  t.regex(second.text(), /another daemon serves the pool/)

  await other.unstage()
  await daemon.running.end('SIGKILL')
  // A record that names a disk by a number that is another's now, as one from before might.
  const path = `${POOL}/volumes/${other.id}.json`
  const { id } = JSON.parse(readFileSync(`${POOL}/volumes/${mine.id}.json`, 'utf8')).device
  const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  const record = JSON.parse(readFileSync(path, 'utf8'))
  writeFileSync(path, JSON.stringify({ ...record, device: { id, bootId, diskseq: '1' } }))
  daemon = await startDaemon(POOL, true)

  t.deepEqual(await client.ask('attached', { id: mine.id }, signal), attached)
  sh('sync', '-f', target)
  t.is(readFileSync(`${target}/file`, 'utf8'), 'not on disk yet')
  await other.stage(blockAccess())
  t.not((await node.attacher.attached(other.id))?.path, attached.path)
  t.is(readFileSync(await other.publish('target', blockAccess())).toString('utf8', 0, 12), 'of the other')
})
