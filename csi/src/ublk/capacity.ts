/**
 * What a pool has left when every volume in it may be filled: the room on its file system less what is promised and not taken yet.
 */
import { stat, statfs } from 'node:fs/promises'
import type { Records, SnapshotRecord, VolumeRecord } from './records.ts'

/** stat counts in these, whatever the file system's blocks are. */
const STAT_BLOCK_BYTES = 512

export interface PoolSpace {
  /** Free for anybody. */
  free: number
  /** Of that, what volumes may still take. */
  promised: number
}

export async function spaceOf(pool: string, volumes: Records<VolumeRecord>, snapshots: Records<SnapshotRecord>): Promise<PoolSpace> {
  const { bavail, bsize } = await statfs(pool)
  const lineages = new Map<string, number>()
  for (const { lineage } of [...volumes.all(), ...snapshots.all()]) lineages.set(lineage, (lineages.get(lineage) ?? 0) + 1)
  let promised = 0
  for (const volume of volumes.all()) {
    // Its blocks may all be shared with a copy: then each write to them takes a new one.
    const isShared = (lineages.get(volume.lineage) ?? 0) > 1
    promised += Math.max(0, volume.bytes - (isShared ? 0 : await takenBytes(volumes.dataPath(volume.id))))
  }
  return { free: bavail * bsize, promised }
}

/** A file that is not there yet has taken nothing. */
export async function takenBytes(path: string): Promise<number> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
  })
  return found === undefined ? 0 : found.blocks * STAT_BLOCK_BYTES
}
