/**
 * What is on a disk, as far as can be told without mounting it: signatures by blkid, and whether the places where anything would be are zero.
 *
 * Reading goes through a program with a time limit: a disk that does not answer must not take the threads of this process along.
 */
import { dataLoss } from '../errors.ts'
import { type RunProgram, runProgram } from '../run-program.ts'

export interface Signature {
  /** File system, or another content such as LVM2_member; empty when none was found. */
  type: string
  /** Kind of the partition table; empty without one. */
  partitionTable: string
}

const READ_LIMIT_MS = 30_000
const KIB = 1024
const MIB = 1024 * KIB
/** `blkid -p` found nothing. The same status says that the device is missing, which is why nothing is concluded from it alone. */
const NOTHING_FOUND = 2

/** Probes the disk itself: no cache, no udev. Throws where several signatures contradict each other. */
export async function signatureOf(devicePath: string, signal: AbortSignal, run: RunProgram = runProgram): Promise<Signature> {
  const { status, stdout } = await run('blkid', ['-p', '-o', 'export', '-s', 'TYPE', '-s', 'PTTYPE', devicePath], {
    signal,
    limitMs: READ_LIMIT_MS,
    statuses: [0, NOTHING_FOUND],
  })
  if (status === NOTHING_FOUND) return { type: '', partitionTable: '' }
  const fields = new Map(
    stdout
      .toString()
      .split('\n')
      .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
  )
  return { type: fields.get('TYPE') ?? '', partitionTable: fields.get('PTTYPE') ?? '' }
}

/**
 * Where to look: both ends, which hold all that blkid knows and most that it does not; copies of superblocks of ext (every group of 8192 KiB
 * or 128 MiB) and btrfs (64 MiB, 256 GiB); the heads of xfs's allocation groups, which are quarters of a disk.
 */
export function probedRanges(bytes: number): Array<{ offset: number; length: number }> {
  const spots = [8 * MIB, 24 * MIB, 64 * MIB, 128 * MIB, 384 * MIB, 256 * 1024 * MIB, ...[1, 2, 3].map((n) => (bytes / 4) * n)]
  const ranges = spots.map((offset) => ({ offset: offset - (offset % (64 * KIB)), length: 64 * KIB }))
  // Direct reads begin at whole blocks of the disk; they may end at its last sector.
  const rest = bytes % (4 * KIB)
  const ends = [
    { offset: 0, length: MIB },
    { offset: Math.max(0, bytes - MIB - rest), length: MIB + rest },
  ]
  return [...ends, ...ranges]
    .map(({ offset, length }) => ({ offset, length: Math.min(length, bytes - offset) }))
    .filter(({ length }) => length > 0)
}

/** Reads past the page cache. Throws DATA_LOSS where a byte is not zero, or a range cannot be read or comes short. */
export async function requireZeroes(devicePath: string, bytes: number, signal: AbortSignal, run: RunProgram = runProgram): Promise<void> {
  for (const { offset, length } of probedRanges(bytes)) {
    const where = `${length} bytes at ${offset} of ${devicePath}`
    const args = [
      `if=${devicePath}`,
      'iflag=direct,skip_bytes,count_bytes,fullblock',
      `bs=${64 * KIB}`,
      `skip=${offset}`,
      `count=${length}`,
    ]
    const { stdout } = await run('dd', [...args, 'status=none'], { signal, limitMs: READ_LIMIT_MS }).catch((cause: Error) => {
      throw dataLoss(`${where} cannot be read, so the disk is not formatted: ${cause.message}`, { cause })
    })
    if (stdout.length !== length) throw dataLoss(`${where}: only ${stdout.length} came, so the disk is not formatted`)
    if (stdout.some((byte) => byte !== 0)) {
      throw dataLoss(
        `${where} are not zero: it holds something that is no file system known here, and is never formatted. Look at it with hexdump`,
      )
    }
  }
}
