/**
 * Names on the router. RouterOS keeps no notes on a disk, so what must be known later is in the name of its image: where a volume's data
 * came from, of which volume and when a snapshot was taken.
 */
import { isSnapshotId, isVolumeId } from '../ids.ts'
import type { VolumeWish } from '../provider.ts'

type Source = NonNullable<VolumeWish['source']>

/** Slot of a disk whose making is not over: what has this name is removed and begun again. */
export const unfinished = (id: string): string => `${id}-new`

/** Nobody's host NQN: an export that lets in this one lets in none. */
export const NOBODY = 'nqn.2000-02.com.mikrotik:nobody'

const HOST_PREFIX = 'nqn.2000-02.com.mikrotik:node:'

/**
 * Host NQN that a node connects with (`nvme connect --hostnqn`), for the fence to know it. It follows from the node's id, so nodes that
 * were cloned from one disk still differ. Reversible, so that a listing can tell who is let in.
 */
export const hostNqnOf = (nodeId: string): string => `${HOST_PREFIX}${nodeId}`
export const nodeOf = (hostNqn: string): string | undefined =>
  hostNqn.startsWith(HOST_PREFIX) ? hostNqn.slice(HOST_PREFIX.length) : undefined

/** `<id>.img`, or `<id>.from.<source>.img`. */
export const volumeFile = (id: string, source: Source | undefined): string => (source ? `${id}.from.${source.id}.img` : `${id}.img`)

/** `<id>.<volume>.<seconds since 1970>.img`. */
export const snapshotFile = (id: string, sourceId: string, createdAt: Date): string =>
  `${id}.${sourceId}.${Math.floor(createdAt.getTime() / 1000)}.img`

/** Source of a volume by its file's name; undefined: not a name of ours. */
export function readVolumeFile(id: string, file: string): { source: Source | undefined } | undefined {
  if (file === `${id}.img`) return { source: undefined }
  const from = new RegExp(`^${id}\\.from\\.(.+)\\.img$`).exec(file)?.[1]
  if (from === undefined) return undefined
  if (isVolumeId(from)) return { source: { kind: 'volume', id: from } }
  return isSnapshotId(from) ? { source: { kind: 'snapshot', id: from } } : undefined
}

export function readSnapshotFile(id: string, file: string): { sourceId: string; createdAt: Date } | undefined {
  const found = new RegExp(`^${id}\\.(.+)\\.(\\d{1,12})\\.img$`).exec(file)
  return found && isVolumeId(found[1]!) ? { sourceId: found[1]!, createdAt: new Date(Number(found[2]) * 1000) } : undefined
}
