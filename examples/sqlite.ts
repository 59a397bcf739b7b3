/**
 * Keeps the blocks as rows of an SQLite database: `SELECT` looks into the disk, and a copy of one file is a copy of it.
 *
 *     ublk add ./examples/sqlite.ts --set path=$PWD/disk.sqlite --set size=1GiB
 *
 * Writes gather in a transaction that a flush commits: after a power cut the disk is as it was at the last flush, never in
 * between. Discarded blocks are deleted rows; blocks without a row read as zeros. One queue: SQLite has one writer.
 */
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import { type Backend, parseSize, type Size } from 'ublk'

const BLOCK_BYTES = 4096
/** Result code of SQLite for a full disk. */
const SQLITE_FULL = 13

export interface SqliteOptions {
  /** The database; made if it is missing. */
  path: string
  /** Size of the device, for a database that is new. */
  size?: Size
}

export default function sqlite({ path, size }: SqliteOptions): Backend {
  const sizeBytes = prepare(path, size)
  let blocks: Blocks
  return {
    size: sizeBytes,
    blockSize: BLOCK_BYTES,
    sync: true,
    open({ queues }) {
      if (queues !== 1) throw new Error(`SQLite has one writer: the device must have one queue, not ${queues}`)
      blocks = new Blocks(path)
    },
    close: () => blocks.close(),
    read: (buf, offset) => blocks.read(buf, offset),
    write: (buf, offset) => blocks.write(buf, offset),
    flush: () => blocks.commit(),
    discard: (offset, length) => blocks.delete(offset, length),
    writeZeroes: (offset, length) => blocks.delete(offset, length),
  }
}

/** Makes what is missing. Returns the size of the device. */
function prepare(path: string, size: Size | undefined): number {
  const database = new DatabaseSync(path)
  try {
    database.exec(`
      PRAGMA journal_mode = WAL;
      CREATE TABLE IF NOT EXISTS device (size INTEGER NOT NULL);
      CREATE TABLE IF NOT EXISTS blocks (number INTEGER PRIMARY KEY, data BLOB NOT NULL);`)
    const device = database.prepare('SELECT size FROM device').get()
    if (device !== undefined) return Number(device.size)
    if (size === undefined) throw new Error(`${path} is new: give the size of the device`)
    database.prepare('INSERT INTO device VALUES (?)').run(parseSize(size))
    return parseSize(size)
  } finally {
    database.close()
  }
}

class Blocks {
  readonly #database: DatabaseSync
  readonly #select: StatementSync
  readonly #replace: StatementSync
  readonly #delete: StatementSync
  #changed = false

  constructor(path: string) {
    this.#database = new DatabaseSync(path)
    // FULL: a commit returns when it is on the disk.
    this.#database.exec('PRAGMA synchronous = FULL')
    this.#select = this.#database.prepare('SELECT number, data FROM blocks WHERE number BETWEEN ? AND ?')
    this.#replace = this.#database.prepare('REPLACE INTO blocks VALUES (?, ?)')
    this.#delete = this.#database.prepare('DELETE FROM blocks WHERE number BETWEEN ? AND ?')
  }

  read(buf: Buffer, offset: number): void {
    const { first, last } = range(offset, buf.length)
    buf.fill(0)
    for (const { number, data } of this.#select.all(first, last)) {
      buf.set(data as Uint8Array, (Number(number) - first) * BLOCK_BYTES)
    }
  }

  write(buf: Buffer, offset: number): void {
    const { first, last } = range(offset, buf.length)
    this.#change(() => {
      for (let number = first; number <= last; number++) {
        const at = (number - first) * BLOCK_BYTES
        this.#replace.run(number, buf.subarray(at, at + BLOCK_BYTES))
      }
    })
  }

  delete(offset: number, length: number): void {
    const { first, last } = range(offset, length)
    this.#change(() => this.#delete.run(first, last))
  }

  commit(): void {
    if (!this.#changed) return
    this.#changed = false
    this.#database.exec('COMMIT')
  }

  close(): void {
    this.commit()
    this.#database.close()
  }

  #change(change: () => void): void {
    if (!this.#changed) this.#database.exec('BEGIN')
    this.#changed = true
    try {
      change()
    } catch (error) {
      // The program that writes to the device shall hear that the disk is full, and not just EIO.
      if ((error as { errcode?: number }).errcode === SQLITE_FULL) throw Object.assign(new Error('no space'), { code: 'ENOSPC' })
      throw error
    }
  }
}

function range(offset: number, length: number): { first: number; last: number } {
  return { first: offset / BLOCK_BYTES, last: (offset + length) / BLOCK_BYTES - 1 }
}
