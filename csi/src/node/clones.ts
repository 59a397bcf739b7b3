/**
 * Copies of a file system beside their original on one node. xfs and btrfs know a file system by its UUID, and a copy has the same.
 */
import { existsSync } from 'node:fs'
import type { Filesystem } from '../fields.ts'
import type { AttachedDevice } from '../provider.ts'
import { type RunProgram, runProgram } from '../run-program.ts'

const TUNE_LIMIT_MS = 5 * 60_000

/**
 * Prepares a volume that may be a copy for its mount; returns options that the mount needs.
 * @param replay mounts the disk and unmounts it again
 */
export async function separateClone(
  device: AttachedDevice,
  filesystem: Filesystem,
  replay: () => Promise<void>,
  signal: AbortSignal,
  run: RunProgram = runProgram,
): Promise<string[]> {
  // The log of a copy may have to be replayed, which forbids a new UUID: the mount is told not to mind.
  if (filesystem === 'xfs') return ['nouuid']
  if (filesystem !== 'btrfs') return []
  const superblock = await superblockOf(device, signal, run)
  if (hasOwnUuid(superblock)) return []
  await device.verify()
  // A log is of the last transaction, and btrfstune makes another one: what programs had synced last would be lost, and the mount with it.
  if (hasLog(superblock)) await replay()
  // Changes the superblocks only (feature metadata_uuid). The kernel must forget what it saw of the disk first.
  await run('btrfs', ['device', 'scan', '--forget', device.path], { signal, statuses: [0, 1] })
  await run('btrfstune', ['-m', device.path], { limitMs: TUNE_LIMIT_MS })
  return []
}

async function superblockOf(device: AttachedDevice, signal: AbortSignal, run: RunProgram): Promise<string> {
  const { stdout } = await run('btrfs', ['inspect-internal', 'dump-super', device.path], { signal })
  return stdout.toString()
}

/** It has been given one before, and no other disk on this node is mounted under it. */
function hasOwnUuid(superblock: string): boolean {
  const fsid = /^fsid\s+(\S+)/m.exec(superblock)?.[1]
  return /\bMETADATA_UUID\b/.test(superblock) && fsid !== undefined && !existsSync(`/sys/fs/btrfs/${fsid}`)
}

/** Of a copy that was made while its source was mounted. */
function hasLog(superblock: string): boolean {
  return !/^log_root\s+0$/m.test(superblock)
}
