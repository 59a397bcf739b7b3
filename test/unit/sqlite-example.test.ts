/** What examples/sqlite.ts answers when the database fails: a flush is either durable or an error. Drives the backend without a device. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import test, { type ExecutionContext } from 'ava'
import sqlite from '../../examples/sqlite.ts'

const BLOCK_BYTES = 4096

/** The methods of the example, all synchronous, without the request that it does not look at. */
interface Blocks {
  open(info: { queues: number }): void
  close(): void
  read(buf: Buffer, offset: number): void
  write(buf: Buffer, offset: number): void
  flush(): void
  discard(offset: number, length: number): void
}

/** The path of a new database. */
function database(t: ExecutionContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'ublk-sqlite-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  return join(directory, 'disk.sqlite')
}

/** A backend over the database, which `sql` changes before it is opened. */
function opened(path: string, sql = ''): Blocks {
  const blocks = sqlite({ path, size: '4MiB' }) as unknown as Blocks
  const other = new DatabaseSync(path)
  other.exec(sql)
  other.close()
  blocks.open({ queues: 1 })
  return blocks
}

const write = (blocks: Blocks, number: number): void => blocks.write(Buffer.alloc(BLOCK_BYTES, number), number * BLOCK_BYTES)

/** Numbers of the blocks that another reader of the database sees. */
function committed(path: string): number[] {
  const other = new DatabaseSync(path, { readOnly: true })
  try {
    return other
      .prepare('SELECT number FROM blocks ORDER BY number')
      .all()
      .map(({ number }) => Number(number))
  } finally {
    other.close()
  }
}

/** COMMIT fails while block 7 is there, and the transaction stays open. */
const COMMIT_FAILS_WITH_BLOCK_7 = `
  CREATE TABLE owner (id INTEGER PRIMARY KEY);
  CREATE TABLE orphan (number INTEGER, owner INTEGER REFERENCES owner DEFERRABLE INITIALLY DEFERRED);
  CREATE TRIGGER bear AFTER INSERT ON blocks WHEN new.number = 7 BEGIN INSERT INTO orphan VALUES (7, 1); END;
  CREATE TRIGGER bury AFTER DELETE ON blocks WHEN old.number = 7 BEGIN DELETE FROM orphan; END;`

test('a flush after a failed flush fails too, until the commit succeeds', (t) => {
  const path = database(t)
  const blocks = opened(path, COMMIT_FAILS_WITH_BLOCK_7)
  write(blocks, 1)
  write(blocks, 7)
  t.throws(() => blocks.flush(), { message: /FOREIGN KEY/ })
  t.throws(() => blocks.flush(), { message: /FOREIGN KEY/ })
  t.deepEqual(committed(path), [])
  // Writes go on meanwhile, in the same transaction.
  write(blocks, 2)
  blocks.discard(7 * BLOCK_BYTES, BLOCK_BYTES)
  blocks.flush()
  t.deepEqual(committed(path), [1, 2])
  blocks.close()
})

test('what SQLite rolled back is never called durable', (t) => {
  const path = database(t)
  const blocks = opened(
    path,
    "CREATE TRIGGER undo AFTER INSERT ON blocks WHEN new.number = 9 BEGIN SELECT RAISE(ROLLBACK, 'rolled back'); END;",
  )
  write(blocks, 1)
  blocks.flush()
  write(blocks, 2)
  t.throws(() => write(blocks, 9), { message: /rolled back/ })
  t.throws(() => blocks.flush(), { message: /writes since the last flush are lost/ })
  t.throws(() => write(blocks, 3), { message: /lost/ })
  t.throws(() => blocks.read(Buffer.alloc(BLOCK_BYTES), 2 * BLOCK_BYTES), { message: /lost/ })
  t.throws(() => blocks.flush(), { message: /lost/ })
  t.throws(() => blocks.close(), { message: /lost/ })
  t.deepEqual(committed(path), [1])
  // Opened again it serves what the last good flush left.
  const again = opened(path)
  const buf = Buffer.alloc(BLOCK_BYTES)
  again.read(buf, BLOCK_BYTES)
  t.true(buf.equals(Buffer.alloc(BLOCK_BYTES, 1)))
  again.close()
})

test('a write that fails as the first one loses nothing, and the next one works', (t) => {
  const path = database(t)
  const blocks = opened(
    path,
    `CREATE TRIGGER undo AFTER INSERT ON blocks WHEN new.number = 9 BEGIN SELECT RAISE(ROLLBACK, 'rolled back'); END;
     CREATE TRIGGER refuse AFTER INSERT ON blocks WHEN new.number = 8 BEGIN SELECT RAISE(ABORT, 'refused'); END;`,
  )
  t.throws(() => write(blocks, 9), { message: /rolled back/ })
  t.throws(() => write(blocks, 8), { message: /refused/ })
  write(blocks, 1)
  t.throws(() => write(blocks, 8), { message: /refused/ })
  blocks.flush()
  t.deepEqual(committed(path), [1])
  blocks.close()
})

test('a disk that fills up while a flush commits fails that flush and every later one', (t) => {
  const path = database(t)
  const source = `
    const { default: sqlite } = await import(${JSON.stringify(new URL('../../examples/sqlite.ts', import.meta.url).href)})
    const blocks = sqlite({ path: ${JSON.stringify(path)}, size: '4MiB' })
    blocks.open({ queues: 1 })
    const attempt = (work) => { try { work(); return 'done' } catch ({ message }) { return message } }
    const block = Buffer.alloc(${BLOCK_BYTES}, 1)
    for (let number = 0; number < 100; number++) blocks.write(block, number * ${BLOCK_BYTES})
    const flushes = [attempt(() => blocks.flush()), attempt(() => blocks.flush())]
    console.log(JSON.stringify([...flushes, attempt(() => blocks.write(block, 0)), attempt(() => blocks.close())]))`
  // Node ignores SIGXFSZ: a file that would become too long is an error of write(2), like a full disk.
  const { stdout, stderr } = spawnSync('prlimit', [`--fsize=${64 * 1024}`, process.execPath, '--input-type=module', '-e', source], {
    encoding: 'utf8',
  })
  const [first, ...later] = JSON.parse(stdout || JSON.stringify([stderr])) as string[]
  t.regex(String(first), /disk I\/O error|full|no space/)
  t.is(later.length, 3)
  for (const message of later) t.regex(message, /writes since the last flush are lost/)
  t.deepEqual(committed(path), [])
})
