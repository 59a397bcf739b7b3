/**
 * Volumes of this node as block devices: the daemon makes and keeps them.
 */
import { dataLoss, failedPrecondition, unavailable } from '../errors.ts'
import { sizeOfDisk } from '../node/disk-size.ts'
import type { AttachedDevice, Attacher } from '../provider.ts'
import type { DaemonClient } from './client.ts'
import { diskseqOf } from './diskseq.ts'
import type { DeviceAnswer } from './protocol.ts'

const ASK_LIMIT_MS = 30_000

export class UblkAttacher implements Attacher {
  readonly #daemon: DaemonClient
  readonly #nodeId: string

  constructor(daemon: DaemonClient, nodeId: string) {
    this.#daemon = daemon
    this.#nodeId = nodeId
  }

  async attach(id: string, context: Record<string, string>, signal: AbortSignal): Promise<AttachedDevice> {
    const answer = await this.#daemon.ask('attach', { id, nodeId: this.#nodeId }, signal)
    const atLeast = Number(context.bytes ?? 0)
    if (answer.bytes < atLeast) {
      throw failedPrecondition(`${answer.path} has ${answer.bytes} bytes, and volume ${id} was made with ${atLeast}; is its file whole?`)
    }
    return toDevice(id, answer)
  }

  async detach(id: string, signal: AbortSignal): Promise<void> {
    await this.#daemon.ask('detach', { id }, signal)
  }

  async attached(id: string): Promise<AttachedDevice | undefined> {
    const answer = await this.#daemon.ask('attached', { id }, AbortSignal.timeout(ASK_LIMIT_MS))
    return answer === null ? undefined : toDevice(id, answer)
  }

  async resized(id: string, bytes: bigint, signal: AbortSignal): Promise<void> {
    // Of itself it is as large as it was promised: the daemon resizes device and file together. Asked again, in case that was cut short.
    const volume = await this.#daemon.ask('volume', { id }, signal)
    if (volume !== null) await this.#daemon.ask('expandVolume', { id, bytes: volume.bytes }, signal)
    const answer = await this.#daemon.ask('attached', { id }, signal)
    if (answer !== null && BigInt(answer.bytes) < bytes) {
      throw unavailable(`${answer.path} has ${answer.bytes} bytes, not yet ${bytes}; expand the volume on the controller first`)
    }
  }

  async probe(signal: AbortSignal): Promise<void> {
    await this.#daemon.ask('ping', {}, signal)
  }
}

function toDevice(id: string, { path, bytes, diskseq }: DeviceAnswer): AttachedDevice {
  return {
    path,
    bytes: BigInt(bytes),
    async verify() {
      const [now, size] = await Promise.all([diskseqOf(path), sizeOfDisk(path)])
      if (now !== diskseq)
        throw dataLoss(`${path} is another disk than the one of volume ${id} (diskseq ${now}, not ${diskseq}); nothing is done with it`)
      if (size !== bytes) throw dataLoss(`${path} has ${size} bytes, not the ${bytes} of volume ${id}; nothing is done with it`)
    },
  }
}
