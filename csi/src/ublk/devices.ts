/**
 * The ublk devices of a pool: made with recovery, so that they outlive this process, and taken back by the next one.
 *
 * Numbers are taken from a range of our own, far above those that the kernel deals out, so that a record never names somebody else's
 * device; and a disk that was handed out is known again by its diskseq, which the kernel gives to one disk only.
 */
import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { createDevice, type Device, deleteDevice, deviceInfo, features, file, listDevices, recoverDevice, UblkError } from 'ublk'
import { failedPrecondition } from '../errors.ts'
import { diskseqOf } from './diskseq.ts'
import type { DeviceRecord } from './records.ts'

const FIRST_ID = 2 ** 19
/** Every device has buffers for its requests: this many are enough for one disk. */
const DEPTH = 64
/** How often a device that waits is tried again: kernels need a moment to let go of a server that was killed. */
const RECOVER_ATTEMPTS = 5
const RECOVER_PAUSE_MS = 500

/** What became of a device that a record names. */
export type Found = 'ours' | 'left over' | 'gone'

/** What the pool needs of its devices. */
export type PoolDevices = Pick<Devices, keyof Devices>

export class Devices {
  /** By volume id. */
  readonly #devices = new Map<string, Device>()
  readonly #bootId: string
  readonly #onFailure: (volumeId: string, error: Error) => void
  /** Numbers that are being used and not yet the kernel's. */
  readonly #reserved = new Set<number>()

  private constructor(bootId: string, onFailure: (volumeId: string, error: Error) => void) {
    this.#bootId = bootId
    this.#onFailure = onFailure
  }

  static async open(onFailure: (volumeId: string, error: Error) => void): Promise<Devices> {
    return new Devices((await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim(), onFailure)
  }

  get(volumeId: string): Device | undefined {
    return this.#devices.get(volumeId)
  }

  all(): Device[] {
    return [...this.#devices.values()]
  }

  /** Whether a device can change its size while it is in use. */
  async canResize(): Promise<boolean> {
    return (await features()).flags.some(({ name, here }) => name === 'UBLK_F_UPDATE_SIZE' && here)
  }

  /** A number that no device has, to be written down before it is used. */
  async reserve(taken: Iterable<number>): Promise<DeviceRecord> {
    const used = new Set([...taken, ...this.#reserved, ...(await listDevices()).map(({ id }) => id)])
    let id = FIRST_ID
    while (used.has(id)) id += 1
    this.#reserved.add(id)
    return { id, bootId: this.#bootId, diskseq: null }
  }

  /** Makes the device of a record; resolves with the record that can be handed out, once it is written down. */
  async create(volumeId: string, record: DeviceRecord, path: string): Promise<DeviceRecord> {
    const device = await createDevice({ id: record.id, backend: file({ path }), recovery: 'reissue', depth: DEPTH, closeOnSignal: false })
    this.#reserved.delete(record.id)
    this.#keep(volumeId, device)
    return { ...record, bootId: this.#bootId, diskseq: await diskseqOf(device.path) }
  }

  async find(record: DeviceRecord): Promise<Found> {
    if (record.bootId !== this.#bootId) return 'gone'
    try {
      const { state, flags } = await deviceInfo(record.id)
      if (!flags.includes('USER_RECOVERY_REISSUE'))
        throw failedPrecondition(`device ${record.id} is not one of this pool; remove it (ublk del)`)
      if (record.diskseq === null || state === 'dead') return 'left over'
      return (await diskseqOf(`/dev/ublkb${record.id}`)) === record.diskseq ? 'ours' : 'gone'
    } catch (error) {
      if (error instanceof UblkError && error.code === 'ERR_UBLK_NO_DEVICE') return 'gone'
      throw error
    }
  }

  /** Serves a device whose server has gone. What waits in it goes on. */
  async recover(volumeId: string, record: DeviceRecord, path: string): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        this.#keep(volumeId, await recoverDevice(record.id, { backend: file({ path }), closeOnSignal: false }))
        return
      } catch (error) {
        if (attempt === RECOVER_ATTEMPTS) throw error
        await delay(RECOVER_PAUSE_MS)
      }
    }
  }

  /** Removes the device of a volume, served by this process or by none. */
  async remove(volumeId: string, record: DeviceRecord): Promise<void> {
    const device = this.#devices.get(volumeId)
    this.#devices.delete(volumeId)
    if (device !== undefined && device.state !== 'quiesced' && device.state !== 'closed') await device.close()
    else await this.removeLeft(record)
  }

  /** Removes what a record names and nobody uses. */
  async removeLeft(record: DeviceRecord): Promise<void> {
    if (record.bootId !== this.#bootId) return
    await deleteDevice(record.id).catch((error: unknown) => {
      if (!(error instanceof UblkError) || error.code !== 'ERR_UBLK_NO_DEVICE') throw error
    })
  }

  /** Hands every device to the next daemon without an error, where the kernel can (Linux 6.16); false where some are still served. */
  async letGo(): Promise<boolean> {
    const done = await Promise.allSettled(this.all().map((device) => (device.isRunning ? device.quiesce({ timeoutMs: 5_000 }) : undefined)))
    return done.every(({ status }) => status === 'fulfilled')
  }

  #keep(volumeId: string, device: Device): void {
    this.#devices.set(volumeId, device)
    device.on('error', (error) => this.#onFailure(volumeId, error))
  }
}
