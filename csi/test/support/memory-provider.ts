/** A provider in memory for tests of the services around it: it keeps its promises and can be slow. */

import type { Capacity, Snapshot, Volume, VolumeProvider, VolumeWish } from '../../src/provider.ts'

export class MemoryProvider implements VolumeProvider {
  readonly name = 'ublk'
  readonly can = { snapshots: true, clones: true, publish: true }
  readonly kept = new Map<string, Volume>()
  readonly kinds = new Map<string, Snapshot>()
  /** Runs before a creation is done. */
  pause: (signal: AbortSignal) => Promise<void> = async () => {}
  /** How often createVolume made something. */
  made = 0

  async createVolume({ id, bytes, source }: VolumeWish, signal: AbortSignal): Promise<Volume> {
    await this.pause(signal)
    const existing = this.kept.get(id)
    if (existing !== undefined) return existing
    this.made += 1
    const volume: Volume = {
      id,
      bytes,
      context: {},
      blank: source === undefined,
      ...(source === undefined ? {} : { source }),
      publishedTo: [],
    }
    this.kept.set(id, volume)
    return volume
  }

  async deleteVolume(id: string): Promise<void> {
    this.kept.delete(id)
  }

  async volume(id: string): Promise<Volume | undefined> {
    return this.kept.get(id)
  }

  async volumes(): Promise<Volume[]> {
    return [...this.kept.values()]
  }

  async capacity(): Promise<Capacity> {
    return { available: 1n << 40n }
  }

  async expandVolume(id: string, bytes: bigint): Promise<Volume> {
    const volume = { ...this.kept.get(id)!, bytes }
    this.kept.set(id, volume)
    return volume
  }

  async createSnapshot(id: string, sourceId: string): Promise<Snapshot> {
    const snapshot = { id, sourceId, bytes: this.kept.get(sourceId)!.bytes, createdAt: new Date(0), ready: true }
    this.kinds.set(id, snapshot)
    return snapshot
  }

  async deleteSnapshot(id: string): Promise<void> {
    this.kinds.delete(id)
  }

  async snapshots(): Promise<Snapshot[]> {
    return [...this.kinds.values()]
  }

  async publish(id: string, nodeId: string): Promise<void> {
    this.kept.set(id, { ...this.kept.get(id)!, publishedTo: [nodeId] })
  }

  async unpublish(id: string): Promise<void> {
    const volume = this.kept.get(id)
    if (volume !== undefined) this.kept.set(id, { ...volume, publishedTo: [] })
  }

  async probe(): Promise<void> {}
  async close(): Promise<void> {}
}
