/** One volume from its creation to its deletion, with a fault at every step; data is looked at all along. */

import { mkdirSync, rmdirSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { status } from '@grpc/grpc-js'
import type {
  CreateSnapshotResponse,
  CreateVolumeResponse,
  NodeStageVolumeRequest,
  Volume,
  VolumeContentSource,
} from '../../src/generated/csi.ts'
import { mountAccess } from '../support/client.ts'
import type { Lab, Victim } from './lab.ts'
import { checkBlocks, Writer } from './writer.ts'

const MIB = 1024n * 1024n
/** Before and after the expansion. */
const SIZES_MIB: Record<string, [bigint, bigint]> = { ext4: [64n, 96n], xfs: [320n, 512n], btrfs: [256n, 384n] }
const NODE = 'node-1'

export class Life {
  readonly #lab: Lab
  readonly #filesystem: string
  readonly #victim: Victim
  readonly #delayMs: () => number
  /** Tells its blocks from those of other lives. */
  readonly #number: number
  readonly #name: string

  constructor(lab: Lab, filesystem: string, victim: Victim, delayMs: () => number, number: number) {
    this.#lab = lab
    this.#filesystem = filesystem
    this.#victim = victim
    this.#delayMs = delayMs
    this.#number = number
    this.#name = `life-${number}`
  }

  async live(): Promise<void> {
    const [small, large] = SIZES_MIB[this.#filesystem]!
    const volume = await this.#create(this.#name, small)
    await this.#begin(volume)
    const target = this.#path(volume, 'target')
    const writer = new Writer()
    writer.start(join(target, 'blocks'), this.#number)
    while (writer.acknowledged < 5 && writer.failure === null) await delay(20)

    const isGrown = await this.#expandInUse(volume, large, target)
    // Where a copy takes time it is taken of a volume at rest.
    const copiesInUse = this.#lab.provider === 'ublk'
    const size = isGrown ? large : small
    if (copiesInUse) await this.#checkCopy(volume, size, writer.acknowledged)
    await writer.stop()
    await this.#finish(volume)
    if (!copiesInUse) await this.#checkCopy(volume, size, writer.acknowledged)

    if (!isGrown)
      await this.#arrow('controller', 'controllerExpandVolume', {
        volumeId: volume.volumeId,
        capacityRange: { requiredBytes: large * MIB },
      })
    await this.#begin(volume)
    await checkBlocks(join(target, 'blocks'), this.#number, writer.acknowledged)
    await this.#requireGrown(target)
    await this.#finish(volume)
    await this.#arrow('controller', 'deleteVolume', { volumeId: volume.volumeId })
  }

  /** A call with a fault on the way; then it is made again until it is answered. */
  async #arrow<Response = Record<string, never>>(service: 'controller' | 'node', method: string, request: object): Promise<Response> {
    let isAtWork = true
    const first = this.#lab
      .once<Response>(service, method, request)
      .catch(() => undefined)
      .finally(() => {
        isAtWork = false
      })
    await delay(this.#delayMs())
    await this.#lab.kill(this.#victim, isAtWork)
    await first
    return this.#lab.call<Response>(service, method, request)
  }

  async #create(name: string, mebibytes: bigint, source?: VolumeContentSource): Promise<Volume> {
    const { volume } = await this.#arrow<CreateVolumeResponse>('controller', 'createVolume', {
      name,
      capacityRange: { requiredBytes: mebibytes * MIB },
      volumeCapabilities: [mountAccess(this.#filesystem)],
      ...(source === undefined ? {} : { volumeContentSource: source }),
    })
    return volume!
  }

  /** Until a pod could use it. */
  async #begin(volume: Volume): Promise<void> {
    const { volumeId, volumeContext } = volume
    const staging = this.#path(volume, 'staging')
    mkdirSync(staging, { recursive: true })
    const volumeCapability = mountAccess(this.#filesystem)
    await this.#arrow('controller', 'controllerPublishVolume', { volumeId, nodeId: NODE, volumeCapability, volumeContext })
    const staged: Partial<NodeStageVolumeRequest> = { volumeId, stagingTargetPath: staging, volumeCapability, volumeContext }
    await this.#arrow('node', 'nodeStageVolume', staged)
    await this.#arrow('node', 'nodePublishVolume', { ...staged, targetPath: this.#path(volume, 'target') })
  }

  async #finish(volume: Volume): Promise<void> {
    const { volumeId } = volume
    const staging = this.#path(volume, 'staging')
    await this.#arrow('node', 'nodeUnpublishVolume', { volumeId, targetPath: this.#path(volume, 'target') })
    await this.#arrow('node', 'nodeUnstageVolume', { volumeId, stagingTargetPath: staging })
    await this.#arrow('controller', 'controllerUnpublishVolume', { volumeId, nodeId: NODE })
    rmdirSync(staging)
  }

  /** False where this kernel cannot do it, which it must say. */
  async #expandInUse({ volumeId }: Volume, mebibytes: bigint, target: string): Promise<boolean> {
    const capacityRange = { requiredBytes: mebibytes * MIB }
    if (this.#lab.provider === 'ublk' && process.env.UBLK_VM === '6.12') {
      const error = await this.#lab.once('controller', 'controllerExpandVolume', { volumeId, capacityRange }).then(
        () => null,
        (thrown: { code: number; details: string }) => thrown,
      )
      if (error?.code !== status.FAILED_PRECONDITION || !error.details.includes('6.16'))
        throw new Error(`not refused for its kernel: ${error?.details}`)
      return false
    }
    await this.#arrow('controller', 'controllerExpandVolume', { volumeId, capacityRange })
    await this.#arrow('node', 'nodeExpandVolume', { volumeId, volumePath: target, capacityRange })
    await this.#requireGrown(target)
    return true
  }

  /** A snapshot, and a volume of it that is staged beside its original: it has what was acknowledged before. */
  async #checkCopy(volume: Volume, mebibytes: bigint, blocks: number): Promise<void> {
    const { snapshot } = await this.#arrow<CreateSnapshotResponse>('controller', 'createSnapshot', {
      name: this.#name,
      sourceVolumeId: volume.volumeId,
    })
    const { snapshotId } = snapshot!
    const clone = await this.#create(`${this.#name}-clone`, mebibytes, { type: { $case: 'snapshot', value: { snapshotId } } })
    await this.#begin(clone)
    await checkBlocks(join(this.#path(clone, 'target'), 'blocks'), this.#number, blocks)
    await this.#finish(clone)
    await this.#arrow('controller', 'deleteVolume', { volumeId: clone.volumeId })
    await this.#arrow('controller', 'deleteSnapshot', { snapshotId })
  }

  /** More than the disk had before, though file systems keep some for themselves. */
  async #requireGrown(path: string): Promise<void> {
    const { blocks, bsize } = await statfs(path, { bigint: true })
    const [small, large] = SIZES_MIB[this.#filesystem]!
    if (blocks * bsize <= small * MIB)
      throw new Error(`${path} has ${blocks * bsize} bytes and should have grown from ${small} to ${large} MiB`)
  }

  #path({ volumeId }: Volume, what: string): string {
    return join(this.#lab.directory, 'mnt', volumeId, what)
  }
}
