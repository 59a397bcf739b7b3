/**
 * What the pool remembers: one JSON file for each volume and snapshot beside its data, replaced by rename once it is on disk. There is no
 * other state; a daemon that is killed at any point finds here what it had promised.
 */
import { mkdir, open, readdir, readFile, rename, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { dataLoss } from '../errors.ts'
import { isSnapshotId, isVolumeId } from '../ids.ts'
import type { VolumeWish } from '../provider.ts'

/** The ublk device of an attached volume. Written before the device is made. */
export interface DeviceRecord {
  /** N of /dev/ublkbN. */
  id: number
  /** The kernel's run that it belongs to. */
  bootId: string
  /** Number that the kernel gives each disk of a run once; null until the device was live. Only then anybody was told of it. */
  diskseq: string | null
}

export interface VolumeRecord {
  id: string
  /** Size that is promised; the file has it when `ready`. */
  bytes: number
  ready: boolean
  source: NonNullable<VolumeWish['source']> | null
  /** What shares blocks with it by reflink has the same: such a file owns none for sure. */
  lineage: string
  /** May take more than the pool has left: asked for by the parameter `overcommit`. */
  overcommit: boolean
  /** Node that it is published to. */
  publishedTo: string | null
  device: DeviceRecord | null
}

export interface SnapshotRecord {
  id: string
  sourceId: string
  bytes: number
  ready: boolean
  lineage: string
  /** Milliseconds since 1970. */
  createdAtMs: number
}

/** The records of one kind, all in memory and each on disk. */
export class Records<T extends { id: string }> {
  readonly #directory: string
  readonly #records: Map<string, T>

  private constructor(directory: string, records: Map<string, T>) {
    this.#directory = directory
    this.#records = records
  }

  static async open<T extends { id: string }>(directory: string, isId: (id: string) => boolean): Promise<Records<T>> {
    await mkdir(directory, { recursive: true, mode: 0o700 })
    const records = new Map<string, T>()
    for (const name of await readdir(directory)) {
      // What a write that did not come to its end has left.
      if (name.endsWith(TEMPORARY)) await unlink(join(directory, name))
      if (!name.endsWith(RECORD) || !isId(name.slice(0, -RECORD.length))) continue
      const record = await readRecord<T>(join(directory, name))
      records.set(record.id, record)
    }
    return new Records(directory, records)
  }

  get(id: string): T | undefined {
    return this.#records.get(id)
  }

  all(): T[] {
    return [...this.#records.values()]
  }

  /** The file of its data. */
  dataPath(id: string): string {
    return join(this.#directory, `${id}.img`)
  }

  /** Resolves when the record is on disk. */
  async put(record: T): Promise<void> {
    await writeDurably(join(this.#directory, record.id + RECORD), JSON.stringify(record))
    this.#records.set(record.id, record)
  }

  async remove(id: string): Promise<void> {
    await unlink(join(this.#directory, id + RECORD)).catch(unlessMissing)
    await syncDirectory(this.#directory)
    this.#records.delete(id)
  }
}

const RECORD = '.json'
const TEMPORARY = '.new'

export const openVolumes = (pool: string): Promise<Records<VolumeRecord>> => Records.open(join(pool, 'volumes'), isVolumeId)
export const openSnapshots = (pool: string): Promise<Records<SnapshotRecord>> => Records.open(join(pool, 'snapshots'), isSnapshotId)

async function readRecord<T>(path: string): Promise<T> {
  try {
    return JSON.parse(await readFile(path, 'utf8'))
  } catch (cause) {
    throw dataLoss(`${path} is damaged; bring it back, or remove it to give the volume up`, { cause })
  }
}

async function writeDurably(path: string, text: string): Promise<void> {
  const file = await open(path + TEMPORARY, 'w', 0o600)
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(path + TEMPORARY, path)
  await syncDirectory(join(path, '..'))
}

export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path)
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

export function unlessMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error
}
