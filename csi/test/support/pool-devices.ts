/** Devices of a pool in memory: what a kernel keeps of them, and a server of each that can fail. */

import { EventEmitter } from 'node:events'
import type { Device } from 'ublk'
import type { Found, PoolDevices } from '../../src/ublk/devices.ts'
import type { DeviceRecord } from '../../src/ublk/records.ts'

/** A disk of the kernel. It outlives its server. */
interface Disk {
  diskseq: string
  bytes: number
  isServed: boolean
}

export class MemoryDevices implements PoolDevices {
  /** By number, as the kernel has them. */
  readonly disks = new Map<number, Disk>()
  /** Runs before a device is made or taken back: fails, or takes its time. */
  pause: () => Promise<void> = async () => {}
  /** Called from within when a device has failed. */
  onFailure: (volumeId: string, error: Error) => void = () => {}
  /** Size of the file of a volume. */
  readonly #sizeOf: (path: string) => number
  readonly #devices = new Map<string, Device>()
  #made = 0

  constructor(sizeOf: (path: string) => number) {
    this.#sizeOf = sizeOf
  }

  /** The server of a volume's device ends, and the disk waits. */
  fail(volumeId: string): void {
    const device = this.#devices.get(volumeId)!
    this.disks.get(device.id)!.isServed = false
    device.emit('stop')
    this.onFailure(volumeId, new Error('the queue has failed'))
  }

  get(volumeId: string): Device | undefined {
    return this.#devices.get(volumeId)
  }

  all(): Device[] {
    return [...this.#devices.values()]
  }

  async canResize(): Promise<boolean> {
    return true
  }

  async reserve(): Promise<DeviceRecord> {
    this.#made += 1
    return { id: this.#made, bootId: 'now', diskseq: null }
  }

  async create(volumeId: string, record: DeviceRecord, path: string): Promise<DeviceRecord> {
    await this.pause()
    const diskseq = `seq-${record.id}`
    this.disks.set(record.id, { diskseq, bytes: this.#sizeOf(path), isServed: true })
    this.#keep(volumeId, record.id)
    return { ...record, diskseq }
  }

  async find({ id, diskseq }: DeviceRecord): Promise<Found> {
    const disk = this.disks.get(id)
    if (disk === undefined) return 'gone'
    if (diskseq === null) return 'left over'
    return disk.diskseq === diskseq ? 'ours' : 'gone'
  }

  async recover(volumeId: string, { id }: DeviceRecord): Promise<void> {
    await this.pause()
    this.disks.get(id)!.isServed = true
    this.#keep(volumeId, id)
  }

  async remove(volumeId: string, record: DeviceRecord): Promise<void> {
    this.#devices.delete(volumeId)
    await this.removeLeft(record)
  }

  async removeLeft({ id }: DeviceRecord): Promise<void> {
    this.disks.delete(id)
  }

  async letGo(): Promise<boolean> {
    return true
  }

  #keep(volumeId: string, id: number): void {
    const disk = this.disks.get(id)!
    const device = Object.defineProperties(new EventEmitter(), {
      id: { value: id },
      // A node that is on every machine.
      path: { value: '/dev/null' },
      isRunning: { get: () => disk.isServed },
      size: { get: () => disk.bytes },
      resize: {
        value: async (bytes: number) => {
          disk.bytes = bytes
        },
      },
    })
    this.#devices.set(volumeId, device as Device)
  }
}
