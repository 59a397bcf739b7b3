/**
 * What device tests share: devices that are gone at the end, programs of the guest, and fio with verified data.
 *
 * Runs as root on a kernel with ublk. Nothing here blocks the event loop: a backend on this thread must go on answering.
 */
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { createDevice, type Device, type DeviceOptions, features, listDevices } from '../../src/index.ts'

const execute = promisify(execFile)
const PROGRAM_LIMIT_MS = 120_000
const UNTIL_LIMIT_MS = 10_000

/** Runs a program; rejects with its output when it fails or takes too long. */
export async function run(program: string, ...args: Array<string | number>): Promise<string> {
  const { stdout } = await execute(program, args.map(String), { timeout: PROGRAM_LIMIT_MS, maxBuffer: 64 << 20 })
  return stdout
}

/** The flags that this kernel has, without UBLK_F_. */
export async function kernelFlags(): Promise<Set<string>> {
  const { flags } = await features()
  return new Set(flags.filter(({ here }) => here).map(({ name }) => name.replace('UBLK_F_', '')))
}

/** Waits for what the kernel or another thread does in its own time. */
export async function until(holds: () => boolean | Promise<boolean>, limitMs = UNTIL_LIMIT_MS): Promise<void> {
  const deadline = Date.now() + limitMs
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`not within ${limitMs} ms: ${holds}`)
    await delay(10)
  }
}

/** Serves a device while `use` runs; afterwards it is closed and the kernel lists it no more. */
export async function withDevice<T>(options: DeviceOptions, use: (device: Device) => Promise<T>): Promise<T> {
  const device = await createDevice(options)
  const result = await use(device).finally(() => device.close())
  const left = await listDevices()
  if (left.some(({ id }) => id === device.id)) throw new Error(`device ${device.id} is still listed after close()`)
  return result
}

/** A directory that is removed at the end. */
export async function withDirectory<T>(use: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(path.join(tmpdir(), 'ublk-test-'))
  try {
    return await use(directory)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

/** Mounts a block device while `use` runs. */
export async function withMount<T>(device: string, use: (directory: string) => Promise<T>): Promise<T> {
  return withDirectory(async (directory) => {
    await run('mount', device, directory)
    try {
      return await use(directory)
    } finally {
      await run('umount', directory)
    }
  })
}

export interface VerifyOptions {
  /** As in fio: one size, or `min-max`, whose sizes and places are multiples of `min`. */
  blockSize: string
  jobs?: number
  /** Bytes that each job writes and reads back. */
  sizeBytes: number
}

/**
 * Writes random places with checksummed blocks and reads them all back: fio stops at the first wrong byte.
 * Jobs work on parts of the device of their own.
 */
export async function fioVerify(device: string, { blockSize, jobs = 1, sizeBytes }: VerifyOptions): Promise<void> {
  const output = await run(
    'fio',
    '--name=verify',
    `--filename=${device}`,
    '--ioengine=io_uring',
    '--direct=1',
    '--rw=randwrite',
    blockSize.includes('-') ? `--bsrange=${blockSize}` : `--bs=${blockSize}`,
    '--iodepth=16',
    `--numjobs=${jobs}`,
    `--size=${sizeBytes}`,
    `--offset_increment=${sizeBytes}`,
    '--verify=crc32c',
    '--verify_fatal=1',
    '--do_verify=1',
    '--randrepeat=0',
    '--group_reporting',
    '--output-format=json',
  )
  const [job] = (JSON.parse(output.slice(output.indexOf('{'))) as { jobs: Array<{ error: number; read: { io_bytes: number } }> }).jobs
  if (job === undefined || job.error !== 0) throw new Error(`fio: error ${job?.error}`)
  if (job.read.io_bytes === 0) throw new Error('fio verified nothing')
}

/** A memory backend for this thread: what the README shows, with every method. */
export function memoryBackend(sizeBytes: number) {
  const store = Buffer.alloc(sizeBytes)
  return {
    size: sizeBytes,
    read(buffer: Buffer, offset: number) {
      store.copy(buffer, 0, offset, offset + buffer.length)
    },
    write(buffer: Buffer, offset: number) {
      buffer.copy(store, offset)
    },
    flush() {},
    discard(offset: number, length: number) {
      store.fill(0, offset, offset + length)
    },
    writeZeroes(offset: number, length: number) {
      store.fill(0, offset, offset + length)
    },
  }
}
