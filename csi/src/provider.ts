/**
 * The seam between the services and where volumes live: a `VolumeProvider` on the controller's side, an `Attacher` on the node's.
 *
 * Ids are checked before they come here (ids.ts). Everything is idempotent: a call that finds its work done succeeds.
 */

/** What a provider of volumes does for the controller service: one object per `--provider`. */
export interface VolumeProvider {
  readonly name: 'rds' | 'ublk'
  /** What it has beyond creating and deleting; the declared capabilities follow from this. */
  readonly can: { readonly snapshots: boolean; readonly clones: boolean; readonly publish: boolean }
  createVolume(wish: VolumeWish, signal: AbortSignal): Promise<Volume>
  deleteVolume(id: string, signal: AbortSignal): Promise<void>
  volume(id: string, signal: AbortSignal): Promise<Volume | undefined>
  volumes(signal: AbortSignal): Promise<Volume[]>
  capacity(parameters: Record<string, string>, signal: AbortSignal): Promise<Capacity>
  expandVolume(id: string, bytes: bigint, signal: AbortSignal): Promise<Volume>
  createSnapshot(id: string, sourceId: string, signal: AbortSignal): Promise<Snapshot>
  deleteSnapshot(id: string, signal: AbortSignal): Promise<void>
  snapshots(signal: AbortSignal): Promise<Snapshot[]>
  /** Lets one node in (a fence), where `can.publish`. */
  publish?(id: string, nodeId: string, signal: AbortSignal): Promise<void>
  unpublish?(id: string, nodeId: string | undefined, signal: AbortSignal): Promise<void>
  probe(signal: AbortSignal): Promise<void>
  close(): Promise<void>
}

export interface VolumeWish {
  id: string
  bytes: bigint
  parameters: Record<string, string>
  source?: { kind: 'snapshot' | 'volume'; id: string }
}

/** `context` goes to the node as volume_context: what it needs to attach. `blank`: never held data, so mkfs may be considered. */
export interface Volume {
  id: string
  bytes: bigint
  context: Record<string, string>
  blank: boolean
  source?: VolumeWish['source']
  publishedTo?: string[]
}

export interface Snapshot {
  id: string
  sourceId: string
  bytes: bigint
  createdAt: Date
  ready: boolean
}

export interface Capacity {
  available: bigint
  largestVolume?: bigint
}

/** The node's side of a provider: a volume becomes a block device, and goes again. All are idempotent. */
export interface Attacher {
  attach(id: string, context: Record<string, string>, signal: AbortSignal): Promise<AttachedDevice>
  detach(id: string, signal: AbortSignal): Promise<void>
  /** The device of an attached volume; undefined only where it has none, and never because it cannot be used just now. */
  attached(id: string): Promise<AttachedDevice | undefined>
  /** Makes the node see the new size; resolves when the device has it. */
  resized(id: string, bytes: bigint, signal: AbortSignal): Promise<void>
  probe(signal: AbortSignal): Promise<void>
}

/** `verify` looks again (identity and size) right before mkfs and mount; it throws when the path is now something else. */
export interface AttachedDevice {
  path: string
  bytes: bigint
  verify(): Promise<void>
}
