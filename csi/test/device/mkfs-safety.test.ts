/** A disk is formatted only when nothing can be lost: everything else on it stays as it is, to the byte. In the VM, on real disks. */

import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { closeSync, mkdirSync, openSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { status } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { CsiError } from '../../src/errors.ts'
import type { Filesystem } from '../../src/fields.ts'
import { nqnOf, volumeId } from '../../src/ids.ts'
import { sizeOfDisk } from '../../src/node/disk-size.ts'
import { ensureFilesystem } from '../../src/node/filesystems.ts'
import { NvmeAttacher } from '../../src/node/nvme.ts'
import { probedRanges, requireZeroes, signatureOf } from '../../src/node/signatures.ts'
import type { AttachedDevice } from '../../src/provider.ts'
import { type RunProgram, runProgram } from '../../src/run-program.ts'

const MIB = 1024 * 1024
const signal = new AbortController().signal
const sh = (program: string, ...args: string[]): string =>
  execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

let count = 0

test.beforeEach((t) => t.timeout(300_000))

/** A loop device over a file of zeroes. */
function disk(t: ExecutionContext, mebibytes = 400): { image: string; device: AttachedDevice } {
  mkdirSync('/run/mkfs-safety', { recursive: true })
  const image = `/run/mkfs-safety/${++count}.img`
  writeFileSync(image, '')
  truncateSync(image, mebibytes * MIB)
  const path = sh('losetup', '--find', '--show', image).trim()
  t.teardown(() => {
    sh('losetup', '-d', path)
    truncateSync(image, 0)
  })
  return { image, device: deviceAt(path, mebibytes * MIB) }
}

const deviceAt = (path: string, bytes: number): AttachedDevice => ({
  path,
  bytes: BigInt(bytes),
  async verify() {
    if ((await sizeOfDisk(path)) !== bytes) throw new Error('the size is not what it should be')
  },
})

/** Changes with every write to the disk: the kernel dates them. The first bytes besides, for whoever doubts that. */
async function stampOf(image: string): Promise<string> {
  sh('sync')
  const { mtimeNs, blocks, size } = await stat(image, { bigint: true })
  const head = Buffer.alloc(MIB)
  const file = await open(image)
  await file.read(head, 0, MIB, 0)
  await file.close()
  return `${mtimeNs} ${blocks} ${size} ${createHash('sha256').update(head).digest('hex')}`
}

/** Asking for a file system must fail with this code and leave every byte. */
async function refuses(
  t: ExecutionContext,
  image: string,
  device: AttachedDevice,
  code: status,
  isBlank = true,
  filesystem: Filesystem = 'ext4',
): Promise<void> {
  const before = await stampOf(image)
  const error = await t.throwsAsync<CsiError>(ensureFilesystem(device, filesystem, isBlank, signal))
  t.true(error instanceof CsiError, error?.stack)
  t.is(error?.code, code, error?.message)
  t.is(await stampOf(image), before, 'the disk was written to')
}

for (const filesystem of ['ext3', 'ext4', 'xfs', 'btrfs'] as const) {
  test.serial(`a disk of zeroes that was made empty becomes ${filesystem}, once`, async (t) => {
    const { device, image } = disk(t)
    await ensureFilesystem(device, filesystem, true, signal)
    t.is((await signatureOf(device.path, signal)).type, filesystem)
    const before = await stampOf(image)
    await ensureFilesystem(device, filesystem, true, signal)
    t.is(await stampOf(image), before, 'the second call changed it')
  })
}

const SIGNATURES: Record<string, (path: string) => void> = {
  'another ext': (path) => sh('mkfs.ext3', '-q', path),
  xfs: (path) => sh('mkfs.xfs', '-q', path),
  btrfs: (path) => sh('mkfs.btrfs', '-q', path),
  vfat: (path) => sh('mkfs.vfat', path),
  swap: (path) => sh('mkswap', path),
  'an MS-DOS partition table': (path) =>
    execFileSync('sfdisk', ['-q', path], { input: 'label: dos\n,10M\n', stdio: ['pipe', 'ignore', 'ignore'] }),
  'a GPT': (path) => execFileSync('sfdisk', ['-q', path], { input: 'label: gpt\n,10M\n', stdio: ['pipe', 'ignore', 'ignore'] }),
  'a LUKS header': (path) => writeAt(path, 0, Buffer.concat([Buffer.from('LUKS\xba\xbe\x00\x01', 'latin1'), Buffer.alloc(504, 1)])),
  'an LVM label': (path) => writeAt(path, 512, Buffer.concat([Buffer.from('LABELONE'), Buffer.alloc(16), Buffer.from('LVM2 001')])),
}

for (const [name, make] of Object.entries(SIGNATURES)) {
  test.serial(`a disk with ${name} is left as it is`, async (t) => {
    const { image, device } = disk(t)
    make(device.path)
    sh('sync')
    // Where blkid has no name for it, its bytes are not zero.
    const { type, partitionTable } = await signatureOf(device.path, signal)
    await refuses(t, image, device, type + partitionTable === '' ? status.DATA_LOSS : status.FAILED_PRECONDITION)
  })
}

for (const { offset, length } of probedRanges(400 * MIB)) {
  test.serial(`one byte that is not zero, among the ${length} at ${offset}, keeps a disk from being formatted`, async (t) => {
    const { image, device } = disk(t)
    writeAt(image, offset + Math.floor(Math.random() * length), Buffer.from([1]))
    sh('blockdev', '--flushbufs', device.path)
    await refuses(t, image, device, status.DATA_LOSS)
  })
}

test.serial('a disk of random data is left as it is', async (t) => {
  const { image, device } = disk(t, 64)
  writeAt(image, 0, randomBytes(64 * MIB))
  await refuses(t, image, device, status.DATA_LOSS)
})

test.serial('a disk of zeroes whose volume was not made empty is left as it is', async (t) => {
  const { image, device } = disk(t, 64)
  await refuses(t, image, device, status.DATA_LOSS, false)
})

test.serial('a disk that is too small for the file system is left as it is', async (t) => {
  const { image, device } = disk(t, 64)
  await refuses(t, image, device, status.FAILED_PRECONDITION, true, 'xfs')
})

test.serial('a disk that cannot be read everywhere is left as it is', async (t) => {
  sh('modprobe', 'dm-flakey')
  const { image, device } = disk(t, 64)
  const sectors = (64 * MIB) / 512
  // Always down: every read fails, and what is written would be lost in silence.
  for (const [name, table] of Object.entries({
    'all of it': `0 ${sectors} flakey ${device.path} 0 0 1 1 error_reads`,
    'the end of it': `0 ${sectors - 2048} linear ${device.path} 0\n${sectors - 2048} 2048 flakey ${device.path} ${sectors - 2048} 0 1 1 error_reads`,
  })) {
    execFileSync('dmsetup', ['create', '--noudevsync', 'flaky'], { input: table, stdio: ['pipe', 'pipe', 'pipe'] })
    try {
      const path = `/dev/${sh('dmsetup', 'info', '-c', '--noheadings', '-o', 'blkdevname', 'flaky').trim()}`
      const before = await stampOf(image)
      const error = await t.throwsAsync<Error & { code?: number }>(ensureFilesystem(deviceAt(path, 64 * MIB), 'ext4', true, signal))
      t.regex(error.message, /blkid|cannot be read/, name)
      t.is(await stampOf(image), before, `${name}: the disk was changed`)
    } finally {
      sh('dmsetup', 'remove', '--noudevsync', 'flaky')
    }
  }
})

test.serial('a disk that has another size than it had is left as it is', async (t) => {
  const { image, device } = disk(t, 64)
  truncateSync(image, 128 * MIB)
  sh('losetup', '--set-capacity', device.path)
  const before = await stampOf(image)
  await t.throwsAsync(ensureFilesystem(device, 'ext4', true, signal), { message: /size is not what it should be/ })
  t.is(await stampOf(image), before)
})

test.serial('a disk that is replaced while it is looked at is left as it is', async (t) => {
  const { image, device } = disk(t, 64)
  let looks = 0
  const replaced: AttachedDevice = {
    ...device,
    async verify() {
      looks += 1
      if (looks > 1) throw new CsiError(status.DATA_LOSS, 'another disk')
    },
  }
  await refuses(t, image, replaced, status.DATA_LOSS)
  t.is(looks, 2)
})

test.serial('a disk that is given a file system by somebody else meanwhile is left with that', async (t) => {
  // Before the last look, as mkfs.ext4 does not look itself when a program calls it; and after it, which the other makers notice.
  for (const [wanted, moment] of [
    ['ext4', 'blkid'],
    ['btrfs', 'mkfs.btrfs'],
    ['xfs', 'mkfs.xfs'],
  ] as const) {
    const { device } = disk(t)
    let hasRead = false
    let isMade = false
    const run: RunProgram = async (program, args, options) => {
      if (program === moment && hasRead && !isMade) {
        sh('mkfs.ext3', '-q', device.path)
        isMade = true
      }
      hasRead ||= program === 'dd'
      return runProgram(program, args, options)
    }
    await t.throwsAsync(ensureFilesystem(device, wanted, true, signal, run))
    t.true(isMade)
    t.is((await signatureOf(device.path, signal)).type, 'ext3', wanted)
  }
})

test.serial('a disk that gives less than was asked for is not one of zeroes', async (t) => {
  const { device } = disk(t, 64)
  await requireZeroes(device.path, 64 * MIB, signal)
  const error = await t.throwsAsync<CsiError>(requireZeroes(device.path, 65 * MIB, signal))
  t.is(error?.code, status.DATA_LOSS)
})

test.serial('an NVMe disk of another NQN, or smaller than its volume, is not attached', async (t) => {
  sh('modprobe', '-a', 'nvmet-tcp', 'nvme-tcp')
  const { device } = disk(t, 64)
  const id = volumeId('mkfs-safety')
  const removeExport = exportDisk(nqnOf(id), device.path)
  t.teardown(removeExport)
  const attacher = new NvmeAttacher({ hostNqn: 'nqn.2014-08.org.example:safety' })
  const context = { provider: 'rds', nqn: nqnOf(id), address: '127.0.0.1', port: '4421', nsid: '1', bytes: String(64 * MIB) }
  const other = nqnOf(volumeId('another'))
  await t.throwsAsync(attacher.attach(id, { ...context, nqn: other }, signal), { message: /has the NQN/ })
  await t.throwsAsync(attacher.attach(id, { ...context, bytes: String(128 * MIB) }, signal), { message: /was made with/ })

  const attached = await attacher.attach(id, context, signal)
  t.is((await attacher.attach(id, context, signal)).path, attached.path)
  await attached.verify()
  await ensureFilesystem(attached, 'ext4', true, signal)
  await attacher.detach(id, signal)
  await attacher.detach(id, signal)
  t.is(await attacher.attached(id), undefined)
  const error = await t.throwsAsync<CsiError>(attached.verify())
  t.is(error?.code, status.DATA_LOSS)
})

function exportDisk(nqn: string, path: string): () => void {
  const root = '/sys/kernel/config/nvmet'
  const subsystem = `${root}/subsystems/${nqn}`
  mkdirSync(subsystem)
  writeFileSync(`${subsystem}/attr_allow_any_host`, '1')
  mkdirSync(`${subsystem}/namespaces/1`)
  writeFileSync(`${subsystem}/namespaces/1/device_path`, path)
  writeFileSync(`${subsystem}/namespaces/1/enable`, '1')
  const port = `${root}/ports/77`
  mkdirSync(port)
  for (const [name, value] of Object.entries({ addr_trtype: 'tcp', addr_adrfam: 'ipv4', addr_traddr: '127.0.0.1', addr_trsvcid: '4421' })) {
    writeFileSync(`${port}/${name}`, value)
  }
  sh('ln', '-s', subsystem, `${port}/subsystems/${nqn}`)
  return () => {
    sh('rm', `${port}/subsystems/${nqn}`)
    sh('rmdir', port)
    writeFileSync(`${subsystem}/namespaces/1/enable`, '0')
    sh('rmdir', `${subsystem}/namespaces/1`)
    sh('rmdir', subsystem)
  }
}

function writeAt(path: string, offset: number, bytes: Buffer): void {
  const file = openSync(path, 'r+')
  writeSync(file, bytes, 0, bytes.length, offset)
  closeSync(file)
}
