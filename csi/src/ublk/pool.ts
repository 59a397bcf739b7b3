/**
 * The operations of the daemon on its pool. Each can be asked again after a crash at any point: records are written before what they
 * promise is made, and are the last to go.
 */
import { mkdir, truncate } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Device } from 'ublk'
import { alreadyExists, failedPrecondition, internal, notFound, resourceExhausted, unavailable } from '../errors.ts'
import { Locks } from '../locks.ts'
import { Mounts } from '../node/mounts.ts'
import { spaceOf, takenBytes } from './capacity.ts'
import { canReflink, copyImage, emptyImage, removeImage } from './copy.ts'
import { Devices, type PoolDevices } from './devices.ts'
import type { Answer, Arguments, DeviceAnswer, OperationName, SnapshotInfo, VolumeInfo } from './protocol.ts'
import { type DeviceRecord, openSnapshots, openVolumes, type Records, type SnapshotRecord, type VolumeRecord } from './records.ts'

type Handlers = { [Name in OperationName]: (given: Arguments<Name>) => Promise<Answer<Name>> }

/** What a pool works with besides its directory. */
interface Surroundings {
  mounts?: Mounts
  openDevices?: (onFailure: (volumeId: string, error: Error) => void) => Promise<PoolDevices>
  /** Whether files of a directory can share blocks. */
  reflinks?: (directory: string) => Promise<boolean>
}

const PROGRESS_STEP_BYTES = 1 << 30
/** After a device has failed, before it is taken back. */
const HEAL_PAUSE_MS = 500

export class Pool {
  readonly #directory: string
  readonly #log: Logger
  readonly #volumes: Records<VolumeRecord>
  readonly #snapshots: Records<SnapshotRecord>
  readonly #devices: PoolDevices
  readonly #mounts: Mounts
  readonly #locks = new Locks()
  readonly #hasReflink: boolean
  /** Creations and expansions wait for each other where they look at the room that is left and take of it. */
  #lastClaim: Promise<unknown> = Promise.resolve()

  private constructor(
    directory: string,
    log: Logger,
    volumes: Records<VolumeRecord>,
    snapshots: Records<SnapshotRecord>,
    devices: PoolDevices,
    mounts: Mounts,
    reflink: boolean,
  ) {
    this.#directory = directory
    this.#log = log
    this.#volumes = volumes
    this.#snapshots = snapshots
    this.#devices = devices
    this.#mounts = mounts
    this.#hasReflink = reflink
  }

  /** Opens the pool and heals it: every device that its records name is served when this resolves, or the log says why not. */
  static async open(
    directory: string,
    log: Logger,
    { mounts = new Mounts(), openDevices = Devices.open, reflinks = canReflink }: Surroundings = {},
  ): Promise<Pool> {
    await mkdir(directory, { recursive: true, mode: 0o700 })
    let pool: Pool | null = null
    const devices = await openDevices((volumeId, error) => {
      log.error({ volumeId, err: error }, 'device failed')
      void pool?.healSoon(volumeId)
    })
    const [volumes, snapshots] = [await openVolumes(directory), await openSnapshots(directory)]
    pool = new Pool(directory, log, volumes, snapshots, devices, mounts, await reflinks(directory))
    await pool.#healAll()
    return pool
  }

  readonly operations: Handlers = {
    ping: async () => ({ resizesInUse: await this.#devices.canResize() }),
    volumes: async () =>
      this.#volumes
        .all()
        .filter(({ ready }) => ready)
        .map(toInfo),
    volume: async ({ id }) => {
      const record = this.#volumes.get(id)
      return record?.ready ? toInfo(record) : null
    },
    capacity: async () => {
      const { free, promised } = await this.#space()
      return { free, available: Math.max(0, free - promised) }
    },
    createVolume: (given) => this.#holding([given.id, given.source?.id], 'createVolume', () => this.#createVolume(given)),
    deleteVolume: ({ id }) => this.#holding([id], 'deleteVolume', () => this.#deleteVolume(id)),
    expandVolume: ({ id, bytes }) => this.#holding([id], 'expandVolume', () => this.#expandVolume(id, bytes)),
    createSnapshot: ({ id, sourceId }) => this.#holding([id, sourceId], 'createSnapshot', () => this.#createSnapshot(id, sourceId)),
    deleteSnapshot: ({ id }) => this.#holding([id], 'deleteSnapshot', () => this.#deleteSnapshot(id)),
    snapshots: async () =>
      this.#snapshots
        .all()
        .filter(({ ready }) => ready)
        .map(toSnapshotInfo),
    publish: ({ id, nodeId }) => this.#holding([id], 'publish', () => this.#publish(id, nodeId)),
    unpublish: ({ id, nodeId }) => this.#holding([id], 'unpublish', () => this.#unpublish(id, nodeId)),
    attach: ({ id, nodeId }) => this.#holding([id], 'attach', () => this.#attach(id, nodeId)),
    detach: ({ id }) => this.#holding([id], 'detach', () => this.#detach(id)),
    attached: async ({ id }) => this.#served(id) ?? this.#holding([id], 'attached', () => this.#attached(id)),
  }

  /** Leaves every device to the next daemon; false where some cannot be handed over without the end of the process. */
  letGo(): Promise<boolean> {
    return this.#devices.letGo()
  }

  #holding<T>(ids: Array<string | undefined>, operation: string, work: () => Promise<T>): Promise<T> {
    const wanted = ids.filter((id) => id !== undefined)
    return this.#locks.holding(wanted, operation, work)
  }

  #space(): ReturnType<typeof spaceOf> {
    return spaceOf(this.#directory, this.#volumes, this.#snapshots)
  }

  /** Writes down a promise of room, if there is as much. */
  #claim(what: string, neededBytes: number, overcommit: boolean, promise: () => Promise<void>): Promise<void> {
    const claim = this.#lastClaim.then(async () => {
      const { free, promised } = await this.#space()
      if (!overcommit && neededBytes > free - promised) {
        throw resourceExhausted(
          `${what} needs ${neededBytes} bytes, and the pool ${this.#directory} has ${Math.max(0, free - promised)} that are not promised; add room, or delete volumes`,
        )
      }
      await promise()
    })
    this.#lastClaim = claim.catch(() => {})
    return claim
  }

  async #createVolume({ id, bytes, source, overcommit }: Arguments<'createVolume'>): Promise<VolumeInfo> {
    const existing = this.#volumes.get(id)
    if (existing?.ready) {
      if (existing.bytes !== bytes || existing.source?.id !== source?.id)
        throw alreadyExists(`volume ${id} exists with ${existing.bytes} bytes`)
      return toInfo(existing)
    }
    // What a call before has begun is begun again.
    if (existing !== undefined) await this.#forget(id)
    const record: VolumeRecord = { id, bytes, ready: false, source, lineage: id, overcommit, publishedTo: null, device: null }
    await this.#claim(`volume ${id}`, bytes, overcommit, () => this.#volumes.put(record))
    try {
      if (source === null) await emptyImage(this.#volumes.dataPath(id), bytes)
      else record.lineage = await this.#copy(source, this.#volumes.dataPath(id), id, bytes)
      await this.#volumes.put({ ...record, ready: true })
    } catch (error) {
      await this.#forget(id)
      throw error
    }
    return toInfo(record)
  }

  /** Copies the data of a volume or snapshot; resolves with the lineage of the copy. */
  async #copy(from: NonNullable<VolumeRecord['source']>, to: string, id: string, bytes: number): Promise<string> {
    const isVolume = from.kind === 'volume'
    const source = isVolume ? this.#volumes.get(from.id) : this.#snapshots.get(from.id)
    if (source === undefined || !source.ready) throw notFound(`there is no ${from.kind} ${from.id}`)
    if (isVolume) await this.#settle(from.id)
    let reported = 0
    const onProgress = (doneBytes: number): void => {
      if (doneBytes < reported + PROGRESS_STEP_BYTES) return
      reported = doneBytes
      this.#log.info({ volumeId: id, sourceId: from.id, doneBytes, totalBytes: source.bytes }, 'copying')
    }
    const path = isVolume ? this.#volumes.dataPath(from.id) : this.#snapshots.dataPath(from.id)
    return (await copyImage(path, to, { bytes, onProgress })) ? source.lineage : id
  }

  /** Before a copy of a volume: what its file system holds back is written; and a copy that takes time needs a volume at rest. */
  async #settle(id: string): Promise<void> {
    const device = this.#devices.get(id)
    if (device === undefined) return
    if (!this.#hasReflink) {
      throw failedPrecondition(
        `volume ${id} is in use and the file system of ${this.#directory} has no reflinks, so a copy would mix times; end its pod, or use a pool on xfs or btrfs`,
      )
    }
    const mounts = await this.#mounts.ofDevice(device.path)
    const mount = mounts.find(({ filesystem }) => filesystem !== 'devtmpfs')
    if (mount !== undefined) return whileServed(device, id, () => this.#mounts.sync(mount.path))
    // What a pod that has the raw disk makes of it is its own to sync.
    if (mounts.length === 0 && (await this.#mounts.isHeld(device.path))) {
      throw failedPrecondition(
        `${device.path} of volume ${id} is mounted where the daemon does not see it, so what its file system holds back would be missing; show the daemon the kubelet's directory, with mount propagation HostToContainer`,
      )
    }
  }

  async #deleteVolume(id: string): Promise<null> {
    const record = this.#volumes.get(id)
    if (record === undefined) return null
    if (record.device !== null) throw failedPrecondition(`volume ${id} is attached as /dev/ublkb${record.device.id}; unstage it first`)
    await this.#forget(id)
    return null
  }

  /** The data first: a record without data is a volume that is not ready, data without a record would be nobody's. */
  async #forget(id: string): Promise<void> {
    await removeImage(this.#volumes.dataPath(id))
    await this.#volumes.remove(id)
  }

  async #expandVolume(id: string, bytes: number): Promise<VolumeInfo> {
    const record = this.#require(id)
    const device = this.#devices.get(id)
    const isLarger = bytes > record.bytes
    if (device !== undefined && (isLarger || device.size < record.bytes) && !(await this.#devices.canResize())) {
      throw failedPrecondition(
        `volume ${id} is in use, and only Linux 6.16 and later can resize a ublk device in use; end its pod and try again`,
      )
    }
    const larger = isLarger ? { ...record, bytes } : record
    if (isLarger) {
      await this.#claim(`volume ${id}`, bytes - record.bytes, record.overcommit, () => this.#volumes.put(larger))
    }
    await this.#applySize(larger)
    return toInfo(larger)
  }

  /** Gives the file, and the device if there is one, the size that the record promises. */
  async #applySize({ id, bytes }: VolumeRecord): Promise<void> {
    await truncate(this.#volumes.dataPath(id), bytes)
    const device = this.#devices.get(id)
    if (device !== undefined && device.size < bytes) await device.resize(bytes)
  }

  async #createSnapshot(id: string, sourceId: string): Promise<SnapshotInfo> {
    const existing = this.#snapshots.get(id)
    if (existing !== undefined && existing.sourceId !== sourceId) throw alreadyExists(`snapshot ${id} is of volume ${existing.sourceId}`)
    if (existing?.ready) return toSnapshotInfo(existing)
    const source = this.#require(sourceId)
    const record: SnapshotRecord = { id, sourceId, bytes: source.bytes, ready: false, lineage: id, createdAtMs: Date.now() }
    // A shared snapshot takes no room now, but its source may have to be written anew wholly.
    const needed = await takenBytes(this.#volumes.dataPath(sourceId))
    await this.#claim(`snapshot ${id}`, needed, source.overcommit, () => this.#snapshots.put(record))
    const path = this.#snapshots.dataPath(id)
    try {
      record.lineage = await this.#copy({ kind: 'volume', id: sourceId }, path, id, source.bytes)
      await this.#snapshots.put({ ...record, ready: true })
    } catch (error) {
      await removeImage(path)
      await this.#snapshots.remove(id)
      throw error
    }
    return toSnapshotInfo(record)
  }

  async #deleteSnapshot(id: string): Promise<null> {
    if (this.#snapshots.get(id) === undefined) return null
    await removeImage(this.#snapshots.dataPath(id))
    await this.#snapshots.remove(id)
    return null
  }

  async #publish(id: string, nodeId: string): Promise<null> {
    const record = this.#require(id)
    if (record.publishedTo !== null && record.publishedTo !== nodeId)
      throw failedPrecondition(`volume ${id} is published to node ${record.publishedTo}`)
    if (record.publishedTo === null) await this.#volumes.put({ ...record, publishedTo: nodeId })
    return null
  }

  async #unpublish(id: string, nodeId: string | null): Promise<null> {
    const record = this.#volumes.get(id)
    if (record === undefined || record.publishedTo === null || (nodeId !== null && record.publishedTo !== nodeId)) return null
    await this.#volumes.put({ ...record, publishedTo: null })
    return null
  }

  async #attach(id: string, nodeId: string): Promise<DeviceAnswer> {
    const { publishedTo } = this.#require(id)
    if (publishedTo !== null && publishedTo !== nodeId)
      throw failedPrecondition(`volume ${id} is published to node ${publishedTo}, not to ${nodeId}`)
    const present = await this.#attached(id)
    if (present !== null) return present
    const record = this.#require(id)
    // It was known and has gone, by a reboot perhaps.
    if (record.device !== null) await this.#heal(record)
    else await this.#makeDevice(record)
    return this.#answer(id)
  }

  async #makeDevice(record: VolumeRecord): Promise<void> {
    await this.#applySize(record)
    const device = await this.#devices.reserve(this.#volumes.all().flatMap((other) => other.device?.id ?? []))
    // Written down before it is made: after a crash between the two it is found and removed.
    await this.#volumes.put({ ...record, device })
    const made = await this.#devices.create(record.id, device, this.#volumes.dataPath(record.id))
    await this.#volumes.put({ ...record, device: made })
  }

  async #detach(id: string): Promise<null> {
    const record = this.#volumes.get(id)
    if (record === undefined || record.device === null) return null
    if (await this.#isWaiting(id, record.device))
      throw unavailable(`/dev/ublkb${record.device.id} of volume ${id} waits to be served again, and would lose what it holds; try again`)
    await this.#devices.remove(id, record.device)
    await this.#volumes.put({ ...record, device: null })
    return null
  }

  /** A device that waits is brought back first: a caller who heard that there is none would leave what is mounted of it. */
  async #attached(id: string): Promise<DeviceAnswer | null> {
    const record = this.#volumes.get(id)
    if (record?.device && (await this.#isWaiting(id, record.device))) await this.#heal(record)
    return this.#served(id)
  }

  #served(id: string): DeviceAnswer | null {
    return this.#devices.get(id)?.isRunning ? this.#answer(id) : null
  }

  /** Whether a device lives and nobody serves it: the healer has not come to it yet, or could not bring it back. */
  async #isWaiting(id: string, device: DeviceRecord): Promise<boolean> {
    return !this.#devices.get(id)?.isRunning && (await this.#devices.find(device)) === 'ours'
  }

  #answer(id: string): DeviceAnswer {
    const device = this.#devices.get(id)
    const diskseq = this.#volumes.get(id)?.device?.diskseq
    if (device === undefined || !diskseq) throw internal(`the device of volume ${id} is gone; stage the volume again`)
    return { path: device.path, bytes: device.size, diskseq }
  }

  #require(id: string): VolumeRecord {
    const record = this.#volumes.get(id)
    if (record === undefined || !record.ready) throw notFound(`there is no volume ${id}`)
    return record
  }

  async #healAll(): Promise<void> {
    // What was being copied when a daemon was killed is not told of, and its room is given back.
    for (const { id } of this.#volumes.all().filter(({ ready }) => !ready)) await this.#forget(id)
    for (const { id } of this.#snapshots.all().filter(({ ready }) => !ready)) await this.#deleteSnapshot(id)
    await Promise.all(
      this.#volumes
        .all()
        .filter(({ device }) => device !== null)
        .map(({ id }) => this.#tryToHeal(id)),
    )
  }

  /** After a device of this process has failed. Whoever works on its volume is waited for. */
  async healSoon(id: string): Promise<void> {
    do await delay(HEAL_PAUSE_MS)
    while (this.#locks.isHeld(id))
    await this.#tryToHeal(id)
  }

  /** Reads the record when it is nobody else's to change: what was read before may be undone by now. */
  async #tryToHeal(id: string): Promise<void> {
    const begunMs = performance.now()
    try {
      await this.#holding([id], 'heal', async () => {
        const record = this.#volumes.get(id)
        if (!record?.device || this.#devices.get(id)?.isRunning) return
        const how = await this.#heal(record)
        const durationMs = Math.round(performance.now() - begunMs)
        this.#log.info({ volumeId: id, device: this.#devices.get(id)?.path, how, durationMs }, 'healed')
      })
    } catch (error) {
      this.#log.error({ volumeId: id, err: error }, 'the device of the volume is not back; staging the volume tries again')
    }
  }

  /** Serves the device of a record again: the same one where it lives, a new one where it has gone. */
  async #heal(record: VolumeRecord): Promise<'recovered' | 'made anew'> {
    const { device } = record
    if (device === null) throw internal(`volume ${record.id} has no device to heal`)
    const found = await this.#devices.find(device)
    if (found === 'ours') {
      await this.#devices.recover(record.id, device, this.#volumes.dataPath(record.id))
      // An expansion may have been cut short; what cannot be resized now is at the next attachment.
      if (await this.#devices.canResize()) await this.#applySize(record)
      return 'recovered'
    }
    if (found === 'left over') await this.#devices.removeLeft(device)
    await this.#makeDevice({ ...record, device: null })
    return 'made anew'
  }
}

/** Work that waits for a device, and cannot be interrupted then: left alone when the device fails, so that it can be brought back. */
function whileServed<T>(device: Device, id: string, work: () => Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const stopped = (): void => reject(unavailable(`the device of volume ${id} is being brought back; try again`))
    if (!device.isRunning) return stopped()
    device.once('stop', stopped)
    work()
      .then(resolve, reject)
      .finally(() => device.off('stop', stopped))
  })
}

const toInfo = ({ id, bytes, source, publishedTo }: VolumeRecord): VolumeInfo => ({ id, bytes, source, publishedTo })
const toSnapshotInfo = ({ id, sourceId, bytes, createdAtMs }: SnapshotRecord): SnapshotInfo => ({ id, sourceId, bytes, createdAtMs })
