/**
 * File systems on a disk: found, checked, made only where nothing can be lost, and grown.
 *
 * A program that writes is not interrupted when its caller goes: a disk that is half formatted is one that is never formatted again. It ends
 * while the volume is locked, and the caller's next try finds its work done.
 */
import { dataLoss, failedPrecondition } from '../errors.ts'
import type { Filesystem } from '../fields.ts'
import type { AttachedDevice } from '../provider.ts'
import { ProgramError, type RunProgram, runProgram } from '../run-program.ts'
import { requireZeroes, signatureOf } from './signatures.ts'

const MKFS_LIMIT_MS = 10 * 60_000
const FSCK_LIMIT_MS = 10 * 60_000
const GROW_LIMIT_MS = 5 * 60_000

/** Smallest disks, in MiB: of less the makers make none, and the kernel changes no btrfs to a size below its own. */
const SMALLEST_MIB: Record<Filesystem, number> = { ext3: 8, ext4: 8, xfs: 300, btrfs: 256 }

/**
 * Sees to it that the disk has this file system. It is made only when all of these hold; otherwise it is an error and nothing is written:
 * the volume was made empty, the disk is the right one and as large as it should be, there is no signature, everything that was read is
 * zero, and then there is still no signature on the same disk. The makers get no -f or -F: they look once more themselves.
 */
export async function ensureFilesystem(
  device: AttachedDevice,
  filesystem: Filesystem,
  isBlank: boolean,
  signal: AbortSignal,
  run: RunProgram = runProgram,
): Promise<void> {
  await device.verify()
  if (await hasFilesystem(device, filesystem, signal, run)) return
  if (!isBlank) {
    throw dataLoss(
      `${device.path} should have ${filesystem} and has no signature at all; its volume was not made empty, so it is not formatted`,
    )
  }
  if (device.bytes <= 0n) throw failedPrecondition(`${device.path} has no size; is its controller live?`)
  if (device.bytes < BigInt(SMALLEST_MIB[filesystem]) << 20n) {
    throw failedPrecondition(
      `${filesystem} needs ${SMALLEST_MIB[filesystem]} MiB, and ${device.path} has ${device.bytes >> 20n}; ask for a larger volume`,
    )
  }
  await requireZeroes(device.path, Number(device.bytes), signal, run)
  if (await hasFilesystem(device, filesystem, signal, run)) return
  await device.verify()
  signal.throwIfAborted()
  await run(`mkfs.${filesystem}`, [device.path], { limitMs: MKFS_LIMIT_MS })
}

/** True with the wanted one, false with nothing at all; anything else is an error. */
async function hasFilesystem(device: AttachedDevice, wanted: Filesystem, signal: AbortSignal, run: RunProgram): Promise<boolean> {
  const { type, partitionTable } = await signatureOf(device.path, signal, run)
  if (type === wanted) return true
  if (type === '' && partitionTable === '') return false
  const content = type === '' ? `a partition table (${partitionTable})` : type
  throw failedPrecondition(`${device.path} has ${content}, not ${wanted}; it is left as it is. Ask for the volume with what it has`)
}

/** Before a mount: ext is checked and mended where it can be without asking; xfs and btrfs mend themselves when mounted. */
export async function checkFilesystem(
  devicePath: string,
  filesystem: Filesystem,
  signal: AbortSignal,
  run: RunProgram = runProgram,
): Promise<void> {
  if (filesystem !== 'ext3' && filesystem !== 'ext4') return
  signal.throwIfAborted()
  try {
    // 1: mended. From 4 on: errors are left.
    await run('e2fsck', ['-p', devicePath], { limitMs: FSCK_LIMIT_MS, statuses: [0, 1] })
  } catch (error) {
    if (!(error instanceof ProgramError)) throw error
    throw dataLoss(`${error.message}. The file system is not mounted; run e2fsck by hand`, { cause: error })
  }
}

/** Lets the mounted file system fill its disk. Nothing happens where it does. */
export async function growFilesystem(
  devicePath: string,
  mountPath: string,
  filesystem: string,
  signal: AbortSignal,
  run: RunProgram = runProgram,
): Promise<void> {
  signal.throwIfAborted()
  const options = { limitMs: GROW_LIMIT_MS }
  if (filesystem === 'ext3' || filesystem === 'ext4') await run('resize2fs', [devicePath], options)
  else if (filesystem === 'xfs') await run('xfs_growfs', ['-d', mountPath], options)
  else if (filesystem === 'btrfs') await run('btrfs', ['filesystem', 'resize', 'max', mountPath], options)
  else throw failedPrecondition(`${mountPath} has ${filesystem}, which this driver cannot grow`)
}
