import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { volumeId } from '../../src/ids.ts'
import { hasFailed, parseMountinfo } from '../../src/node/mountinfo.ts'
import { Mounts, removeTarget } from '../../src/node/mounts.ts'
import { Tools } from '../../src/node/tools.ts'
import { unstageVolume } from '../../src/node/unstage-volume.ts'
import type { NodeParts } from '../../src/plugin.ts'
import type { Attacher } from '../../src/provider.ts'
import type { RunProgram } from '../../src/run-program.ts'

const TABLE = String.raw`22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
97 22 259:3 / /var/lib/kubelet/with\040space rw,noatime shared:5 master:7 - xfs /dev/nvme0n1 rw,attr2
98 22 0:5 /ublkb524288 /var/lib/kubelet/block\134path rw - devtmpfs udev rw,size=4k
99 22 0:48 /sub /mnt/b ro,relatime - btrfs /dev/ublkb7 ro,space_cache=v2
`

test('the table of mounts is read with its escapes and its optional fields', (t) => {
  const [root, xfs, block, btrfs] = parseMountinfo(TABLE)
  t.like(root, { device: '254:1', path: '/', filesystem: 'ext4', source: '/dev/vda1', superOptions: ['rw', 'errors=remount-ro'] })
  t.like(xfs, {
    device: '259:3',
    path: '/var/lib/kubelet/with space',
    filesystem: 'xfs',
    source: '/dev/nvme0n1',
    options: ['rw', 'noatime'],
  })
  t.like(block, { root: '/ublkb524288', path: '/var/lib/kubelet/block\\path', filesystem: 'devtmpfs' })
  t.like(btrfs, { root: '/sub', options: ['ro', 'relatime'], source: '/dev/ublkb7', superOptions: ['ro', 'space_cache=v2'] })
})

test('a file system that stopped writing by itself is told from one that was mounted so', (t) => {
  const [mount] = parseMountinfo('1 2 8:1 / /a rw - ext4 /dev/a rw')
  t.false(hasFailed(mount!))
  t.true(hasFailed({ ...mount!, superOptions: ['ro'] }))
  t.false(hasFailed({ ...mount!, superOptions: ['ro'], options: ['ro'] }))
  for (const option of ['emergency_ro', 'shutdown']) t.true(hasFailed({ ...mount!, superOptions: ['rw', option], options: ['ro'] }))
})

test('a target is removed with nothing in it, and never what is in it', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'ublk-csi-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const target = join(folder, 'target')
  mkdirSync(target)
  writeFileSync(join(target, 'data'), 'kept')
  await t.throwsAsync(removeTarget(target), { code: 'ENOTEMPTY' })
  t.is(readFileSync(join(target, 'data'), 'utf8'), 'kept')
  rmSync(join(target, 'data'))
  await removeTarget(target)
  await removeTarget(target)
  t.false(existsSync(target))
})

/** A table of mounts that `mount` and `umount` change: lines as the kernel's, and what was run. */
function tableOf(t: ExecutionContext, lines: string[]): { mounts: Mounts; commands: string[] } {
  const folder = mkdtempSync(join(tmpdir(), 'ublk-csi-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'mountinfo')
  const commands: string[] = []
  const write = (): void => writeFileSync(path, lines.join('\n'))
  const run: RunProgram = async (program, args) => {
    commands.push([program, ...args].join(' '))
    if (args.includes('remount,bind,ro')) throw new Error('no remount')
    const top = lines.findLastIndex((line) => line.split(' ')[4] === args[0])
    if (program === 'umount') lines.splice(top, 1)
    else lines.push(`9 2 8:1 / ${args.at(-1)} rw - ext4 /dev/a rw`)
    write()
    return { status: 0, stdout: Buffer.alloc(0), stderr: '' }
  }
  write()
  return { mounts: new Mounts(run, path), commands }
}

test('what should be read-only and cannot be made so is not left mounted', async (t) => {
  const { mounts } = tableOf(t, [])
  await t.throwsAsync(mounts.bind('/staged', '/target', true, new AbortController().signal), { message: 'no remount' })
  t.deepEqual(await mounts.list(), [])
})

test('a mount that does not show the disk is an error', async (t) => {
  const { mounts } = tableOf(t, [])
  // The table says 8:1, and this is 1:3.
  const mounted = mounts.mount('/dev/null', '/target', 'ext4', [], new AbortController().signal)
  await t.throwsAsync(mounted, { message: /is not a mount of \/dev\/null after mounting/ })
})

test('the mount of a disk that is gone is unmounted when it is unstaged, and not while it is published', async (t) => {
  const detached: string[] = []
  const attacher = { attached: async () => undefined, detach: async (id: string) => void detached.push(id) } as unknown as Attacher
  const { signal } = new AbortController()
  const request = { volumeId: volumeId('gone'), stagingTargetPath: '/staging' }
  const [staged, published] = ['/staging', '/target'].map((path, index) => `${index + 5} 1 259:3 / ${path} rw - ext4 /dev/nvme0n1 rw`)
  const parts = (mounts: Mounts): NodeParts => ({ attacher, mounts, nodeId: '', maxVolumes: 0, tools: new Tools(), topology: null })

  const used = tableOf(t, [staged!, published!])
  await t.throwsAsync(unstageVolume(request, parts(used.mounts), signal), { message: /still published at \/target/ })
  t.deepEqual([used.commands, detached], [[], []])
  const free = tableOf(t, [staged!])
  await unstageVolume(request, parts(free.mounts), signal)
  t.deepEqual([free.commands, detached], [['umount /staging'], [request.volumeId]])
  t.deepEqual(await free.mounts.list(), [])
})
