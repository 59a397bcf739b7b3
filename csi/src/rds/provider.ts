/**
 * The provider `rds`: volumes are file disks of a RouterOS storage server, exported over NVMe/TCP.
 *
 * Invariant: a disk whose slot is a volume's or a snapshot's id is complete. It is made under another slot and gets its name last, by the
 * command that also exports it; so what was cut short can be told from what holds data, and only that is ever begun again.
 * Every step looks first and is safe to repeat. Nothing here removes a disk or file whose name is not exactly one of ours.
 */
import { posix } from 'node:path'
import type { Logger } from 'pino'
import { aborted, alreadyExists, failedPrecondition, internal, invalidArgument, notFound, resourceExhausted } from '../errors.ts'
import { isSnapshotId, isVolumeId, nqnOf } from '../ids.ts'
import type { Capacity, Snapshot, Volume, VolumeProvider, VolumeWish } from '../provider.ts'
import { unlessAborted } from './abort.ts'
import type { Values } from './command.ts'
import { checkedConfig, type RdsConfig } from './config.ts'
import { Copies } from './copies.ts'
import { hostNqnOf, NOBODY, nodeOf, readSnapshotFile, readVolumeFile, snapshotFile, unfinished, volumeFile } from './names.ts'
import { RETRY_DELAYS_MS, retrying } from './retry.ts'
import { Router, type RouterDisk } from './router.ts'
import { SshSession, type Transport } from './session.ts'

const DEFAULT_NVME_PORT = 4420
/** Sectors of a file disk, as RouterOS prints them (`sector-size=512`). */
const SECTOR_BYTES = 512n
/** Parameters of a StorageClass that begin so are the sidecars'. */
const FOREIGN_PARAMETER = /^csi\.storage\.k8s\.io\//

/** What tests put in the place of the network and of time. */
export interface RdsParts {
  /** Called twice: copies of data have a session of their own, for they last. */
  transport?: (config: RdsConfig) => Transport
  retryDelaysMs?: readonly number[]
  now?: () => Date
  log?: Pick<Logger, 'warn'>
}

export class RdsProvider implements VolumeProvider {
  readonly name = 'rds'
  readonly #config: RdsConfig
  readonly #router: Router
  readonly #transport: Transport
  readonly #copies: Copies
  readonly #delaysMs: readonly number[]
  readonly #now: () => Date
  readonly #log: RdsParts['log']
  /** Creations and expansions wait for each other where they look at the room that is left and take of it. */
  #lastClaim: Promise<unknown> = Promise.resolve()

  /** @param section `rds` of the configuration file, as it is */
  constructor(section: RdsConfig | Record<string, unknown>, parts: RdsParts = {}) {
    this.#config = checkedConfig(section)
    const transport = parts.transport ?? ((checked: RdsConfig): Transport => new SshSession(checked))
    this.#transport = transport(this.#config)
    this.#router = new Router(this.#transport)
    this.#delaysMs = parts.retryDelaysMs ?? RETRY_DELAYS_MS
    this.#copies = new Copies(() => transport(this.#config))
    this.#now = parts.now ?? (() => new Date())
    this.#log = parts.log
  }

  /** Nothing is promised before the router was asked: see `probe`. A copy is whole only of a disk that no node can write meanwhile. */
  get can(): { snapshots: boolean; clones: boolean; publish: boolean } {
    const known = this.#router.known
    const publish = known?.fences === true && this.#config.fence !== 'off'
    const copies = publish && known.copies
    return { snapshots: copies, clones: copies, publish }
  }

  async probe(signal: AbortSignal): Promise<void> {
    await retrying(signal, this.#delaysMs, async () => {
      await this.#router.probe(signal)
      await this.#pool(signal)
    })
  }

  async close(): Promise<void> {
    await this.#copies.close()
    await this.#transport.close()
  }

  async createVolume(wish: VolumeWish, signal: AbortSignal): Promise<Volume> {
    checkParameters(wish.parameters)
    const bytes = roundedUp(wish.bytes)
    return this.#retrying(signal, async () => {
      const there = await this.#router.disk(wish.id, signal)
      if (there) {
        await this.#repair(this.#asWished(there, wish, bytes), signal)
        return this.#finished(wish.id, (disk) => disk, signal)
      }
      await this.#make(wish.id, volumeFile(wish.id, wish.source), bytes, wish.source?.id, signal)
      await this.#router.set(unfinished(wish.id), { slot: wish.id, ...this.#exportOf(wish.id) }, signal)
      return this.#finished(wish.id, (disk) => this.#asWished(disk, wish, bytes), signal)
    })
  }

  /** A disk of the wished name must be what is wished, or the name is taken. */
  #asWished(disk: RouterDisk, wish: VolumeWish, bytes: bigint): RouterDisk {
    const wished = this.#path(volumeFile(wish.id, wish.source))
    if (disk.path !== wished) throw alreadyExists(`${wish.id} is at ${disk.path} and would be at ${wished}: it has another source`)
    if (disk.bytes !== bytes) throw alreadyExists(`${wish.id} has ${disk.bytes} bytes and not the ${bytes} that are asked for`)
    return disk
  }

  /** Data of a disk that is complete is never touched; its export may be put right. */
  async #repair(disk: RouterDisk, signal: AbortSignal): Promise<void> {
    const wanted = this.#exportOf(disk.slot, disk.allowedHost)
    if (this.#difference(disk, wanted)) await this.#router.set(disk.slot, wanted, signal)
  }

  /** Makes the unfinished disk of an id from nothing, with data of `sourceId`. */
  async #make(id: string, file: string, bytes: bigint, sourceId: string | undefined, signal: AbortSignal): Promise<void> {
    const slot = unfinished(id)
    if (this.#copies.begun(slot)) return this.#copies.joined(slot, signal)
    const source = sourceId === undefined ? undefined : await this.#sourceDisk(sourceId, bytes, signal)
    // Left by a call that was cut short: its data was never anybody's.
    await this.#removeDisk(slot, signal)
    await this.#removeFile(this.#path(file).slice(1), signal)
    const values = {
      type: 'file',
      slot,
      'file-path': this.#path(file),
      'file-size': bytes,
      'mount-filesystem': 'no',
      'nvme-tcp-export': 'no',
    } as const
    await this.#claim(id, bytes, () => this.#router.add(values, signal), signal)
    const made = await this.#router.disk(slot, signal)
    if (!made) throw internal(`the router added the disk ${slot} and does not list it; see its log`)
    this.#compare(made, values)
    if (source) await this.#copies.copied(source.slot, slot, signal)
  }

  async #sourceDisk(sourceId: string, bytes: bigint, signal: AbortSignal): Promise<RouterDisk> {
    if (!this.can.clones)
      throw failedPrecondition('this router cannot copy a disk that no node may write meanwhile; see docs/csi/runbook.md')
    const source = await this.#router.disk(sourceId, signal)
    if (!source) throw notFound(`there is no ${sourceId} to copy`)
    if (source.exported && source.allowedHost !== NOBODY) {
      throw failedPrecondition(
        `${sourceId} is published to ${nodeOf(source.allowedHost) ?? 'any host'}: a copy of a disk in use is not whole. Stop what uses it first`,
      )
    }
    if (bytes < source.bytes) throw failedPrecondition(`a copy of ${sourceId} needs ${source.bytes} bytes, and ${bytes} are asked for`)
    return source
  }

  async #finished(id: string, check: (disk: RouterDisk) => RouterDisk, signal: AbortSignal): Promise<Volume> {
    const disk = await this.#router.disk(id, signal)
    if (!disk) throw internal(`the router lost the disk ${id} while it was made; see its log`)
    this.#compare(check(disk), this.#exportOf(id, disk.allowedHost))
    return this.#volumeOf(disk)
  }

  /** Read back, and found as it was written: each property of the command. */
  #compare(disk: RouterDisk, values: Values): void {
    const difference = this.#difference(disk, values)
    if (difference) throw internal(`the disk ${disk.slot} was changed, and ${difference}; see the router's log`)
  }

  #difference(disk: RouterDisk, values: Values): string | undefined {
    const read: Values = {
      slot: disk.slot,
      'file-path': disk.path,
      'file-size': disk.bytes,
      'mount-filesystem': disk.mounts ? 'yes' : 'no',
      'nvme-tcp-export': disk.exported ? 'yes' : 'no',
      'nvme-tcp-server-port': disk.port,
      'nvme-tcp-server-nqn': disk.nqn,
      'nvme-tcp-server-allow-host-name': disk.allowedHost,
    }
    const written = Object.entries(values) as [keyof Values, string | bigint][]
    const differs = written.find(([property, value]) => property !== 'type' && String(read[property]) !== String(value))
    return differs && `${differs[0]} is ${read[differs[0]]} and not ${differs[1]}`
  }

  #exportOf(id: string, allowedHost = ''): Values {
    const fence = this.can.publish ? { 'nvme-tcp-server-allow-host-name': allowedHost === '' ? NOBODY : allowedHost } : {}
    const names = { 'nvme-tcp-server-port': this.#nvmePort, 'nvme-tcp-server-nqn': nqnOf(id), ...fence }
    return { 'mount-filesystem': 'no', ...names, 'nvme-tcp-export': 'yes' }
  }

  async deleteVolume(id: string, signal: AbortSignal): Promise<void> {
    if (!isVolumeId(id)) return
    await this.#retrying(signal, async () => {
      const disk = await this.#router.disk(id, signal)
      const holder = disk && nodeOf(disk.allowedHost)
      if (holder !== undefined) throw failedPrecondition(`${id} is published to ${holder}; unpublish it there first`)
      this.#endCopies(id)
      if (disk?.exported) {
        await this.#router.set(id, { 'nvme-tcp-export': 'no' }, signal)
        if ((await this.#router.disk(id, signal))?.exported) throw internal(`the disk ${id} is still exported after that was switched off`)
      }
      await this.#removeAll(id, signal)
    })
  }

  /** Before a deletion: none may be under way that reads the id's disk or makes it, and one that is over is not waited for any more. */
  #endCopies(id: string): void {
    if (this.#copies.isBusy(id) || this.#copies.isBusy(unfinished(id))) {
      throw aborted(`a copy from or to ${id} goes on; it can be deleted when that is done`)
    }
    this.#copies.forget(unfinished(id))
  }

  /** Disks of an id, finished or not, and then each file whose name says that it is this id's: RouterOS leaves the file. */
  async #removeAll(id: string, signal: AbortSignal): Promise<void> {
    await this.#removeDisk(id, signal)
    await this.#removeDisk(unfinished(id), signal)
    for (const name of await this.#orphans(id, signal)) await this.#removeFile(name, signal)
  }

  async #removeDisk(slot: string, signal: AbortSignal): Promise<void> {
    const disk = await this.#router.disk(slot, signal)
    if (!disk) return
    if (disk.exported) throw internal(`the disk ${slot} is exported and was to be removed`)
    await this.#router.remove(slot, signal)
    if (await this.#router.disk(slot, signal)) throw internal(`the disk ${slot} is still there after it was removed`)
  }

  async #removeFile(name: string, signal: AbortSignal): Promise<void> {
    if (!(await this.#router.fileExists(name, signal))) return
    await this.#router.removeFile(name, signal)
    if (await this.#router.fileExists(name, signal)) throw internal(`the file ${name} is still there after it was removed`)
  }

  async #orphans(id: string, signal: AbortSignal): Promise<string[]> {
    const found = await this.#router.filesBeginning(`${this.#path(id).slice(1)}.`, signal)
    return found.filter((name) => this.#ownFile(id, `/${name}`) !== undefined)
  }

  /** Name of a file, without the slash, where the path is exactly one that this driver gives to this id. */
  #ownFile(id: string, path: string): string | undefined {
    const file = posix.basename(path)
    const own = isSnapshotId(id) ? readSnapshotFile(id, file) : readVolumeFile(id, file)
    return own && path === this.#path(file) ? path.slice(1) : undefined
  }

  async volume(id: string, signal: AbortSignal): Promise<Volume | undefined> {
    if (!isVolumeId(id)) return undefined
    const disk = await this.#retrying(signal, () => this.#router.disk(id, signal))
    return disk && this.#volumeOf(disk)
  }

  async volumes(signal: AbortSignal): Promise<Volume[]> {
    return (await this.#listed(isVolumeId, signal)).map((disk) => this.#volumeOf(disk))
  }

  /** Finished disks of ours that can be read: a damaged one must not hide the others. */
  async #listed(isOurs: (slot: string) => boolean, signal: AbortSignal): Promise<RouterDisk[]> {
    const disks = await this.#retrying(signal, () => this.#router.disks(signal))
    const ours = disks.filter(({ slot, path }) => isOurs(slot) && this.#ownFile(slot, path))
    return ours.flatMap(({ bytes, ...disk }) => {
      if (bytes !== undefined) return [{ ...disk, bytes }]
      this.#log?.warn({ volumeId: disk.slot }, `the router tells no size of this disk and it is left out of lists; is ${disk.path} there?`)
      return []
    })
  }

  #volumeOf(disk: RouterDisk): Volume {
    const own = readVolumeFile(disk.slot, posix.basename(disk.path))
    if (!own) throw failedPrecondition(`the disk ${disk.slot} is backed by ${disk.path}, which this driver did not make`)
    const node = nodeOf(disk.allowedHost)
    return {
      id: disk.slot,
      bytes: disk.bytes,
      context: {
        provider: 'rds',
        nqn: nqnOf(disk.slot),
        address: this.#config.nvmeAddress ?? this.#config.address,
        port: this.#nvmePort,
        nsid: '1',
        bytes: String(disk.bytes),
      },
      blank: own.source === undefined,
      ...(own.source && { source: own.source }),
      ...(this.can.publish && { publishedTo: node === undefined ? [] : [node] }),
    }
  }

  async capacity(parameters: Record<string, string>, signal: AbortSignal): Promise<Capacity> {
    checkParameters(parameters)
    const available = await this.#retrying(signal, () => this.#available(signal))
    return { available, largestVolume: available }
  }

  /** What is free, and, unless more may be promised than there is, never more than what is not promised: images may be sparse. */
  async #available(signal: AbortSignal): Promise<bigint> {
    const { bytes: all, free } = await this.#pool(signal)
    if (this.#config.overcommit) return free
    const inPool = `/${this.#mountPoint}/`
    const promised = (await this.#router.disks(signal)).reduce(
      (sum, { path, bytes }) => (path.startsWith(inPool) ? sum + (bytes ?? 0n) : sum),
      0n,
    )
    let available = all - promised
    if (free < available) available = free
    return available < 0n ? 0n : available
  }

  /** Takes room of the pool, if there is as much. */
  #claim(id: string, bytes: bigint, take: () => Promise<void>, signal: AbortSignal): Promise<void> {
    // What the router does not have it refuses itself.
    if (this.#config.overcommit) return take()
    const claim = this.#lastClaim.then(async () => {
      const available = await this.#available(signal)
      if (bytes > available) {
        throw resourceExhausted(
          `${id} needs ${bytes} more bytes, and the pool ${this.#mountPoint} has ${available} that are not promised; add disks to it, delete volumes, or set rds.overcommit`,
        )
      }
      await take()
    })
    this.#lastClaim = claim.catch(() => undefined)
    return unlessAborted(claim, signal, 'the time of the call was over')
  }

  async expandVolume(id: string, bytes: bigint, signal: AbortSignal): Promise<Volume> {
    const wished = roundedUp(bytes)
    return this.#retrying(signal, async () => {
      const disk = await this.#existing(id, signal)
      if (disk.bytes >= wished) return this.#volumeOf(disk)
      await this.#claim(id, wished - disk.bytes, () => this.#router.set(id, { 'file-size': wished }, signal), signal)
      const grown = await this.#existing(id, signal)
      this.#compare(grown, { 'file-size': wished })
      return this.#volumeOf(grown)
    })
  }

  async createSnapshot(id: string, sourceId: string, signal: AbortSignal): Promise<Snapshot> {
    return this.#retrying(signal, async () => {
      const there = await this.#router.disk(id, signal)
      const known = there && this.#snapshotOf(there)
      if (known && known.sourceId !== sourceId) throw alreadyExists(`${id} is a snapshot of ${known.sourceId} and not of ${sourceId}`)
      if (known) return known
      const source = await this.#existing(sourceId, signal)
      await this.#make(id, snapshotFile(id, sourceId, this.#now()), source.bytes, sourceId, signal)
      await this.#router.set(unfinished(id), { slot: id }, signal)
      const snapshot = this.#snapshotOf(await this.#existing(id, signal))
      if (snapshot?.sourceId !== sourceId) throw internal(`the disk ${id} is not what was made; see the router's log`)
      return snapshot
    })
  }

  async deleteSnapshot(id: string, signal: AbortSignal): Promise<void> {
    if (!isSnapshotId(id)) return
    this.#endCopies(id)
    await this.#retrying(signal, () => this.#removeAll(id, signal))
  }

  async snapshots(signal: AbortSignal): Promise<Snapshot[]> {
    return (await this.#listed(isSnapshotId, signal)).flatMap((disk) => this.#snapshotOf(disk) ?? [])
  }

  #snapshotOf(disk: RouterDisk): Snapshot | undefined {
    if (!isSnapshotId(disk.slot) || !this.#ownFile(disk.slot, disk.path)) return undefined
    const named = readSnapshotFile(disk.slot, posix.basename(disk.path))
    return named && { id: disk.slot, ...named, bytes: disk.bytes, ready: true }
  }

  /** Lets one node connect. Who was in before is thrown out by the export's end, which a change of the name alone does not do. */
  async publish(id: string, nodeId: string, signal: AbortSignal): Promise<void> {
    await this.#retrying(signal, async () => {
      const disk = await this.#existing(id, signal)
      if (this.#copies.isBusy(id)) throw aborted(`${id} is being copied; it is published when that is done`)
      const host = hostNqnOf(nodeId)
      if (disk.allowedHost === host && disk.exported) return
      const holder = nodeOf(disk.allowedHost)
      if (holder !== undefined && holder !== nodeId) throw failedPrecondition(`${id} is published to ${holder}; unpublish it there first`)
      await this.#admit(id, host, signal)
    })
  }

  async unpublish(id: string, nodeId: string | undefined, signal: AbortSignal): Promise<void> {
    if (!isVolumeId(id)) return
    await this.#retrying(signal, async () => {
      const disk = await this.#router.disk(id, signal)
      if (!disk || disk.allowedHost === NOBODY || (nodeId !== undefined && disk.allowedHost !== hostNqnOf(nodeId))) return
      await this.#admit(id, NOBODY, signal)
    })
  }

  async #admit(id: string, host: string, signal: AbortSignal): Promise<void> {
    await this.#router.set(id, { 'nvme-tcp-export': 'no' }, signal)
    const values = this.#exportOf(id, host)
    await this.#router.set(id, values, signal)
    this.#compare(await this.#existing(id, signal), values)
  }

  async #existing(id: string, signal: AbortSignal): Promise<RouterDisk> {
    const disk = isVolumeId(id) || isSnapshotId(id) ? await this.#router.disk(id, signal) : undefined
    if (!disk) throw notFound(`the router has no disk ${id}`)
    return disk
  }

  async #pool(signal: AbortSignal): Promise<{ bytes: bigint; free: bigint }> {
    const pool = await this.#router.pool(this.#mountPoint, signal)
    if (!pool)
      throw failedPrecondition(`the router has no disk mounted at ${this.#mountPoint}; see rds.basePath (${this.#config.basePath})`)
    return pool
  }

  get #mountPoint(): string {
    return this.#config.basePath.split('/')[1]!
  }

  get #nvmePort(): string {
    return String(this.#config.nvmePort ?? DEFAULT_NVME_PORT)
  }

  #path(file: string): string {
    return `${this.#config.basePath}/${file}`
  }

  /** Asks for the router's abilities before the rest, since what can be done follows from them. */
  #retrying<T>(signal: AbortSignal, run: () => Promise<T>): Promise<T> {
    return retrying(signal, this.#delaysMs, async () => {
      await this.#router.facts(signal)
      return run()
    })
  }
}

/** A parameter that nobody reads is refused: it would be an unsaid default. */
function checkParameters(parameters: Record<string, string>): void {
  const unknown = Object.keys(parameters).find((name) => !FOREIGN_PARAMETER.test(name))
  if (unknown === undefined) return
  throw invalidArgument(`parameter "${unknown}" is not known; a StorageClass of rds has none, its settings are the driver's`)
}

const roundedUp = (bytes: bigint): bigint => ((bytes + SECTOR_BYTES - 1n) / SECTOR_BYTES) * SECTOR_BYTES
