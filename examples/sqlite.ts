/**
 * Keeps the blocks as rows of an SQLite database: `SELECT` looks into the disk, and a copy of one file is a copy of it.
 *
 *     ublk add ./examples/sqlite.ts --set path=$PWD/disk.sqlite --set size=1GiB
 *
 * Writes gather in a transaction that a flush commits: after a power cut the disk is as it was at the last flush, never in
 * between. Discarded blocks are deleted rows; blocks without a row read as zeros. One queue: SQLite has one writer.
 * A flush that fails is tried again by the next one, unless SQLite gave the transaction up: then writes that were acknowledged are
 * lost, and every request fails until the device is made anew.
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
  /** Whether a transaction is open. It holds changes that were acknowledged and become durable with the next flush. */
  #changed = false
  /** Set when such changes are lost. */
  #lost: Error | null = null

  constructor(path: string) {
    this.#database = new DatabaseSync(path)
    // FULL: a commit returns when it is on the disk.
    this.#database.exec('PRAGMA synchronous = FULL')
    this.#select = this.#database.prepare('SELECT number, data FROM blocks WHERE number BETWEEN ? AND ?')
    this.#replace = this.#database.prepare('REPLACE INTO blocks VALUES (?, ?)')
    this.#delete = this.#database.prepare('DELETE FROM blocks WHERE number BETWEEN ? AND ?')
  }

  read(buf: Buffer, offset: number): void {
    this.#refuseAfterLoss()
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
    this.#refuseAfterLoss()
    if (!this.#changed) return
    try {
      this.#database.exec('COMMIT')
      this.#changed = false
    } catch (error) {
      throw this.#failure(error)
    }
  }

  close(): void {
    try {
      this.commit()
    } finally {
      this.#database.close()
    }
  }

  #change(change: () => void): void {
    this.#refuseAfterLoss()
    if (!this.#changed) this.#database.exec('BEGIN')
    try {
      change()
      this.#changed = true
    } catch (error) {
      // Nothing in this transaction was acknowledged; what the change did before it failed goes with it.
      if (!this.#changed && this.#database.isTransaction) this.#database.exec('ROLLBACK')
      throw this.#failure(error)
    }
  }

  /** On some errors, such as a full disk, SQLite rolls back by itself. On others the transaction stays, and the next flush tries again. */
  #failure(error: unknown): unknown {
    if (this.#changed && !this.#database.isTransaction) {
      this.#lost = new Error('the writes since the last flush are lost: SQLite rolled back', { cause: error })
    }
    // The program that writes to the device shall hear that the disk is full, and not just EIO.
    const isFull = (error as { errcode?: number }).errcode === SQLITE_FULL
    return isFull ? Object.assign(new Error('no space', { cause: error }), { code: 'ENOSPC' }) : error
  }

  #refuseAfterLoss(): void {
    if (this.#lost !== null) throw this.#lost
  }
}

function range(offset: number, length: number): { first: number; last: number } {
  return { first: offset / BLOCK_BYTES, last: (offset + length) / BLOCK_BYTES - 1 }
}
