/**
 * Volumes of this node, as its daemon keeps them.
 */
import { invalidArgument } from '../errors.ts'
import type { Capacity, Snapshot, Volume, VolumeProvider, VolumeWish } from '../provider.ts'
import type { DaemonClient } from './client.ts'
import type { SnapshotInfo, VolumeInfo } from './protocol.ts'

/** Parameters of a StorageClass that begin so are the sidecars'. */
const FOREIGN_PARAMETER = /^csi\.storage\.k8s\.io\//

export class UblkProvider implements VolumeProvider {
  readonly name = 'ublk'
  readonly can = { snapshots: true, clones: true, publish: true }
  readonly #daemon: DaemonClient

  constructor(daemon: DaemonClient) {
    this.#daemon = daemon
  }

  async createVolume({ id, bytes, parameters, source }: VolumeWish, signal: AbortSignal): Promise<Volume> {
    const { overcommit } = checkParameters(parameters)
    return toVolume(await this.#daemon.ask('createVolume', { id, bytes: Number(bytes), source: source ?? null, overcommit }, signal))
  }

  async deleteVolume(id: string, signal: AbortSignal): Promise<void> {
    await this.#daemon.ask('deleteVolume', { id }, signal)
  }

  async volume(id: string, signal: AbortSignal): Promise<Volume | undefined> {
    const info = await this.#daemon.ask('volume', { id }, signal)
    return info === null ? undefined : toVolume(info)
  }

  async volumes(signal: AbortSignal): Promise<Volume[]> {
    return (await this.#daemon.ask('volumes', {}, signal)).map(toVolume)
  }

  async capacity(parameters: Record<string, string>, signal: AbortSignal): Promise<Capacity> {
    const { free, available } = await this.#daemon.ask('capacity', {}, signal)
    return { available: BigInt(checkParameters(parameters).overcommit ? free : available) }
  }

  async expandVolume(id: string, bytes: bigint, signal: AbortSignal): Promise<Volume> {
    return toVolume(await this.#daemon.ask('expandVolume', { id, bytes: Number(bytes) }, signal))
  }

  async createSnapshot(id: string, sourceId: string, signal: AbortSignal): Promise<Snapshot> {
    return toSnapshot(await this.#daemon.ask('createSnapshot', { id, sourceId }, signal))
  }

  async deleteSnapshot(id: string, signal: AbortSignal): Promise<void> {
    await this.#daemon.ask('deleteSnapshot', { id }, signal)
  }

  async snapshots(signal: AbortSignal): Promise<Snapshot[]> {
    return (await this.#daemon.ask('snapshots', {}, signal)).map(toSnapshot)
  }

  async publish(id: string, nodeId: string, signal: AbortSignal): Promise<void> {
    await this.#daemon.ask('publish', { id, nodeId }, signal)
  }

  async unpublish(id: string, nodeId: string | undefined, signal: AbortSignal): Promise<void> {
    await this.#daemon.ask('unpublish', { id, nodeId: nodeId ?? null }, signal)
  }

  async probe(signal: AbortSignal): Promise<void> {
    await this.#daemon.ask('ping', {}, signal)
  }

  async close(): Promise<void> {}
}

/** A misspelt parameter is refused: it would be an unsaid default. */
function checkParameters(parameters: Record<string, string>): { overcommit: boolean } {
  for (const [name, value] of Object.entries(parameters)) {
    if (FOREIGN_PARAMETER.test(name)) continue
    if (name !== 'overcommit') throw invalidArgument(`parameter "${name}" is not known; there is overcommit ("true" or "false")`)
    if (value !== 'true' && value !== 'false') throw invalidArgument(`parameter overcommit must be "true" or "false", got "${value}"`)
  }
  return { overcommit: parameters.overcommit === 'true' }
}

const toVolume = ({ id, bytes, source, publishedTo }: VolumeInfo): Volume => ({
  id,
  bytes: BigInt(bytes),
  context: { provider: 'ublk', bytes: String(bytes) },
  blank: source === null,
  ...(source === null ? {} : { source }),
  publishedTo: publishedTo === null ? [] : [publishedTo],
})

const toSnapshot = ({ id, sourceId, bytes, createdAtMs }: SnapshotInfo): Snapshot => ({
  id,
  sourceId,
  bytes: BigInt(bytes),
  createdAt: new Date(createdAtMs),
  ready: true,
})
