/**
 * The state of served devices on disk: for device N the record `N.json` and the socket `N.sock` in one directory.
 *
 * The directory is 0700, the files are 0600. A record appears by rename, and is on disk before that: a reader sees a whole one
 * or none, whenever the machine or the server stops. It ends with a checksum, and must be this user's: what does not add up is
 * never trusted, and `inspect` says so. It holds all that is needed to serve the device again, and may outlive its server
 * (kill -9): `isRunning(state)` tells.
 * Only the server of a device writes its record; a server that was given N by the kernel may replace whatever is there,
 * for the kernel has one device N at a time.
 */

import {
  chmodSync,
  closeSync,
  fstatSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import type { FormerMemory } from 'ublk'
import { EXIT, Failure } from './failure.ts'
import { isRunning, isSameProcess, type ProcessIdentity } from './process.ts'
import type { ServeSpec } from './target.ts'

/** Content of `N.json`. */
export interface ServerState extends ProcessIdentity {
  /** Version of the program that wrote it. */
  version: string
  id: number
  /** Date and time in ISO 8601. */
  startedAt: string
  /** What is served, and how. */
  spec: ServeSpec
  /** The kernel's number of the disk, which no other one gets while the machine runs: N may be another device's by now. */
  diskSequence?: number
  /** What its users share with it now, where it has such memory: the next server must know, and nobody else can tell. */
  sharedMemory?: FormerMemory[]
}

/** What lies in the place of a record. */
export type Inspection = { state: ServerState; problem: null } | { state: null; problem: string | null }

/** The kernel's number of device N as a disk; undefined while it is none. */
export function diskSequenceOf(id: number): number | undefined {
  try {
    return Number(readFileSync(`/sys/block/ublkb${id}/diskseq`, 'latin1'))
  } catch {
    return undefined
  }
}

/** Whether the number is another device's by now: somebody may have removed the device of the record without it. */
export function isOfAnotherDisk({ id, diskSequence }: ServerState): boolean {
  const sequence = diskSequenceOf(id)
  return diskSequence !== undefined && sequence !== undefined && sequence !== diskSequence
}

const DIRECTORY_MODE = 0o700
const FILE_MODE = 0o600

export class StateDirectory {
  readonly path: string

  constructor(path: string) {
    this.path = path
  }

  /** Where this user's servers keep their state. */
  static forUser(): StateDirectory {
    if (process.geteuid?.() === 0) return new StateDirectory('/run/ublk')
    return new StateDirectory(join(process.env.XDG_RUNTIME_DIR || `/run/user/${process.geteuid?.()}`, 'ublk'))
  }

  /** Makes the directory, or takes care that the one that is there is ours alone. */
  ensure(): void {
    try {
      mkdirSync(this.path, { recursive: true, mode: DIRECTORY_MODE })
      const { uid, mode } = lstatSync(this.path)
      if (uid !== process.geteuid?.()) throw new Error(`it belongs to user ${uid}`)
      if ((mode & 0o777) !== DIRECTORY_MODE) chmodSync(this.path, DIRECTORY_MODE)
    } catch (error) {
      throw new Failure(
        {
          code: 'ERR_UBLK_PERMISSION',
          message: `the state directory ${this.path} cannot be used: ${(error as Error).message}`,
          hint: 'Run as root, or set XDG_RUNTIME_DIR to a directory of your own.',
          exitCode: EXIT.permission,
        },
        error,
      )
    }
  }

  socketPath(id: number): string {
    return join(this.path, `${id}.sock`)
  }

  statePath(id: number): string {
    return join(this.path, `${id}.json`)
  }

  write(state: ServerState): void {
    const temporary = join(this.path, `.${state.id}.json`)
    const fd = openSync(temporary, 'w', FILE_MODE)
    try {
      // Unlike writeSync it goes on after a short write.
      writeFileSync(fd, sealed(state))
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    renameSync(temporary, this.statePath(state.id))
    this.#syncDirectory()
  }

  /** The record of a device, or null when there is none that can be trusted. */
  read(id: number): ServerState | null {
    return this.inspect(id).state
  }

  /** The record of a device; without one, what is wrong with what is there, or a null for nothing there. */
  inspect(id: number): Inspection {
    const path = this.statePath(id)
    const broken = (problem: string): Inspection => ({ state: null, problem: `${path} ${problem}` })
    let text: string
    try {
      text = readOwn(path)
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      return code === 'ENOENT' ? { state: null, problem: null } : broken(`cannot be read: ${message}`)
    }
    const state = unsealed(text)
    if (state === null) return broken('is damaged: its checksum does not fit')
    return state.id === id ? { state, problem: null } : broken(`is the record of device ${state.id}`)
  }

  /** Numbers that have a record or a socket here, or the begin of a record, lowest first. */
  ids(): number[] {
    let names: string[]
    try {
      names = readdirSync(this.path)
    } catch {
      return []
    }
    const ids = names.map((name) => /^\.?(\d+)\.(?:json|sock)$/.exec(name)?.[1]).filter((id) => id !== undefined)
    return [...new Set(ids.map(Number))].sort((a, b) => a - b)
  }

  /** Removes record and socket. Returns whether there was one. */
  remove(id: number): boolean {
    const there = this.ids().includes(id)
    for (const path of [this.statePath(id), this.socketPath(id), join(this.path, `.${id}.json`)]) rmSync(path, { force: true })
    return there
  }

  /**
   * The same, if it is still what was there before: when a device is gone, a new one may have its number, with a record and a socket.
   * @param former whose record was there; null for none that could be read
   */
  removeFormer(id: number, former: ProcessIdentity | null): boolean {
    const record = this.read(id)
    const isFormer = former === null ? record === null || !isRunning(record) : record !== null && isSameProcess(record, former)
    return isFormer && this.remove(id)
  }

  removeSocket(id: number): void {
    rmSync(this.socketPath(id), { force: true })
  }

  /** The record of a device whose server runs, or null. */
  readServed(id: number): ServerState | null {
    const state = this.read(id)
    return state !== null && isRunning(state) ? state : null
  }

  /** The rename is on disk, too. */
  #syncDirectory(): void {
    const fd = openSync(this.path, 'r')
    try {
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
  }
}

/** The text of a file of this user. */
function readOwn(path: string): string {
  const fd = openSync(path, 'r')
  try {
    const { uid } = fstatSync(fd)
    if (uid !== process.geteuid?.()) throw new Error(`it belongs to user ${uid}`)
    return readFileSync(fd, 'utf8')
  } finally {
    closeSync(fd)
  }
}

function sealed(state: ServerState): string {
  const checksum = crc32(JSON.stringify(state)).toString(16).padStart(8, '0')
  return `${JSON.stringify({ ...state, checksum })}\n`
}

/** What `sealed` made `text` of, or null if it made no such text. */
function unsealed(text: string): ServerState | null {
  try {
    const { checksum: _, ...state } = JSON.parse(text)
    return sealed(state) === text ? state : null
  } catch {
    return null
  }
}
