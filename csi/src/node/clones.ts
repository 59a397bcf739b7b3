/**
 * Copies of a file system beside their original on one node. xfs and btrfs know a file system by its UUID, and a copy has the same.
 */
import { existsSync } from 'node:fs'
import type { Filesystem } from '../fields.ts'
import type { AttachedDevice } from '../provider.ts'
import { type RunProgram, runProgram } from '../run-program.ts'

const TUNE_LIMIT_MS = 5 * 60_000

/** Prepares a volume that may be a copy for its mount; returns options that the mount needs. */
export async function separateClone(
  device: AttachedDevice,
  filesystem: Filesystem,
  signal: AbortSignal,
  run: RunProgram = runProgram,
): Promise<string[]> {
  // The log of a copy may have to be replayed, which forbids a new UUID: the mount is told not to mind.
  if (filesystem === 'xfs') return ['nouuid']
  if (filesystem === 'btrfs' && !(await hasOwnUuid(device, signal, run))) {
    await device.verify()
    // Changes the superblocks only (feature metadata_uuid). The kernel must forget what it saw of the disk first.
    await run('btrfs', ['device', 'scan', '--forget', device.path], { signal, statuses: [0, 1] })
    await run('btrfstune', ['-m', device.path], { limitMs: TUNE_LIMIT_MS })
  }
  return []
}

/** It has been given one before, and no other disk on this node is mounted under it. */
async function hasOwnUuid(device: AttachedDevice, signal: AbortSignal, run: RunProgram): Promise<boolean> {
  const { stdout } = await run('btrfs', ['inspect-internal', 'dump-super', device.path], { signal })
  const text = stdout.toString()
  const fsid = /^fsid\s+(\S+)/m.exec(text)?.[1]
  return /\bMETADATA_UUID\b/.test(text) && fsid !== undefined && !existsSync(`/sys/fs/btrfs/${fsid}`)
}
