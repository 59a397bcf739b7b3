/**
 * What the user of a device does while its server ends: requests of `ublk-check`, or files on a file system.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { type FileHandle, mkdir, open, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { run } from '../device/support.ts'
import type { Checker } from '../matrix/checker.ts'

const CHECK_LIMIT_MS = 40_000
const SETTLE_MS = 20_000

/** Requests, or synced files, that succeeded and that failed. */
export interface Counts {
  done: number
  failed: number
}

/** A load that runs in the background. */
export interface UserLoad {
  counts(): Promise<Counts>
  /** Ends it: no request hangs, and no read brought what cannot be there. */
  settle(): Promise<Counts>
  /** What was acknowledged is in the device, or in the file behind it. */
  examine(where: string): Promise<void>
}

/** Threads of `ublk-check` that write, flush, and compare what they read. */
export class RequestLoad implements UserLoad {
  static readonly THREADS = 3
  #checker: Checker

  private constructor(checker: Checker) {
    this.#checker = checker
  }

  /** @param shared a file of memory that is shared with the server, for the data of the requests */
  static async start(checker: Checker, device: string, kind: 'verify' | 'flush', seed: number, shared?: string): Promise<RequestLoad> {
    const memory = shared === undefined ? '' : ` shared=${shared}`
    await checker.ask(`load ${device} ${kind} seed=${seed} threads=${RequestLoad.THREADS}${memory}`, CHECK_LIMIT_MS)
    return new RequestLoad(checker)
  }

  async #counts(line: string): Promise<Counts> {
    const [done = 0, failed = 0] = await this.#checker.ask(line, CHECK_LIMIT_MS)
    return { done, failed }
  }

  counts(): Promise<Counts> {
    return this.#counts('progress')
  }

  settle(): Promise<Counts> {
    return this.#counts(`settle limit_ms=${SETTLE_MS}`)
  }

  async examine(where: string): Promise<void> {
    const { done } = await this.#counts(`examine ${where}`)
    if (done === 0) throw new Error('the load has written nothing')
  }
}

/** Beyond this nothing new is written; the file system is small. */
const MOST_FILES = 1000
const PAUSE_MS = 5

/** Files on ext4, each written and synced before the next. */
export class FileLoad implements UserLoad {
  static #running = new Set<FileLoad>()
  #directory: string
  #synced: number[] = []
  #failed = 0
  #isOver = false
  #ended: Promise<void>

  private constructor(directory: string) {
    this.#directory = directory
    this.#ended = this.#write()
    FileLoad.#running.add(this)
  }

  /** Those that a cell which failed has left. */
  static async abandonAll(): Promise<void> {
    for (const load of FileLoad.#running) {
      load.#isOver = true
      await run('umount', '--lazy', load.#directory)
    }
    FileLoad.#running.clear()
  }

  static async start(device: string): Promise<FileLoad> {
    await run('mkfs.ext4', '-q', '-F', '-E', 'nodiscard', device)
    const directory = mkdtempSync(path.join(tmpdir(), 'ublk-crash-'))
    await run('mount', device, directory)
    await mkdir(path.join(directory, 'files'))
    return new FileLoad(directory)
  }

  async #write(): Promise<void> {
    for (let number = 0; !this.#isOver; number++) {
      if (this.#synced.length >= MOST_FILES) await delay(PAUSE_MS)
      else await this.#writeOne(number)
    }
  }

  async #writeOne(number: number): Promise<void> {
    try {
      await writeSynced(this.#directory, number)
      this.#synced.push(number)
    } catch {
      this.#failed++
      await delay(PAUSE_MS) // what fails, fails at once
    }
  }

  async counts(): Promise<Counts> {
    return { done: this.#synced.length, failed: this.#failed }
  }

  async settle(): Promise<Counts> {
    this.#isOver = true
    const isEnded = await Promise.race([this.#ended.then(() => true), delay(SETTLE_MS, false)])
    if (!isEnded) throw new Error(`a file hangs: not synced within ${SETTLE_MS} ms`)
    await run('umount', this.#directory)
    FileLoad.#running.delete(this)
    rmSync(this.#directory, { recursive: true })
    return this.counts()
  }

  /** A file system whose device has failed requests has its journal to replay, and a mark to check it. Then it is clean. */
  async examine(where: string): Promise<void> {
    if (this.#failed > 0) await run('fsck.ext4', '-p', where).catch(acceptCorrected)
    await run('fsck.ext4', '-f', '-n', where)
    const directory = mkdtempSync(path.join(tmpdir(), 'ublk-crash-'))
    await run('mount', '-o', 'ro', where, directory)
    try {
      for (const number of this.#synced) {
        const found = await readFile(fileOf(directory, number)).catch(() => Buffer.alloc(0))
        if (!found.equals(contentOf(number))) throw new Error(`file ${number}, which was synced, is lost: ${found.length} bytes`)
      }
    } finally {
      await run('umount', directory)
      rmSync(directory, { recursive: true })
    }
  }
}

const fileOf = (directory: string, number: number): string => path.join(directory, 'files', String(number))
/** Lengths differ, and so does each file from all others. */
const contentOf = (number: number): Buffer => Buffer.alloc(1000 + 37 * (number % 200), `file ${number}; `)

async function writeSynced(directory: string, number: number): Promise<void> {
  const handle: FileHandle = await open(fileOf(directory, number), 'w')
  try {
    await handle.writeFile(contentOf(number))
    await handle.sync()
    // fsync of ext4 says that all is well when the transaction went with a journal that was aborted before. A change of the inode does not.
    await handle.utimes(0, 0)
  } finally {
    await handle.close()
  }
}

/** Exit status 1 of fsck: all is mended. */
function acceptCorrected(error: Error & { code?: number }): void {
  if (error.code !== 1) throw error
}
