/**
 * The router behind the console: its disks and files, which are real ones in a directory, and which survive its death as a router's do.
 *
 * Layout: `DIR/state.json` holds the settings of the disks, `DIR/files/raid10/…` what is on the pool.
 */
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import type { Exporter } from './exporter.ts'
import { ScriptError } from './grammar.ts'

export interface FileDisk {
  id: number
  slot: string
  path: string
  mountFilesystem: boolean
  exported: boolean
  port: number
  nqn: string
  allowedHost: string
}

export interface MachineOptions {
  directory: string
  exporter: Exporter
  /** Of the pool `raid10`. Images count in full, though the files are sparse. */
  poolBytes?: number
  /** Images count by what was written to them. */
  sparse?: boolean
}

export const POOL = 'raid10'
const COPY_PIECE_BYTES = 1 << 20

export class Machine {
  readonly #directory: string
  readonly #exporter: Exporter
  readonly #sparse: boolean
  readonly poolBytes: number
  disks: FileDisk[] = []
  #nextId = 0x20

  constructor({ directory, exporter, poolBytes = 16 * 2 ** 40, sparse = false }: MachineOptions) {
    this.#sparse = sparse
    this.#directory = directory
    this.#exporter = exporter
    this.poolBytes = poolBytes
    mkdirSync(join(directory, 'files', POOL, 'csi'), { recursive: true })
    if (existsSync(this.#stateFile)) {
      const state = JSON.parse(readFileSync(this.#stateFile, 'utf8')) as { disks: FileDisk[]; nextId: number }
      this.disks = state.disks
      this.#nextId = state.nextId
    }
  }

  get #stateFile(): string {
    return join(this.#directory, 'state.json')
  }

  /** Where the router's `/raid10/…` is on this machine. */
  local(path: string): string {
    if (!/^\/(?!.*(^|\/)\.\.?(\/|$))/.test(path)) throw new ScriptError('failure: bad path')
    return join(this.#directory, 'files', path)
  }

  /** As at power-on: every disk that is set to be exported is exported. */
  start(): void {
    this.#exporter.clear()
    for (const disk of this.disks) if (disk.exported) this.#export(disk)
  }

  stop(): void {
    this.#exporter.clear()
  }

  hasFile(disk: FileDisk): boolean {
    return existsSync(this.local(disk.path))
  }

  bytesOf(disk: FileDisk): number {
    return existsSync(this.local(disk.path)) ? statSync(this.local(disk.path)).size : 0
  }

  get freeBytes(): number {
    return this.poolBytes - this.files().reduce((sum, { bytes, written }) => sum + (this.#sparse ? written : bytes), 0)
  }

  /** All files, by their names without a slash in front. */
  files(): { name: string; bytes: number; written: number; modified: Date }[] {
    const root = join(this.#directory, 'files')
    return readdirSync(root, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => {
        const path = join(entry.parentPath, entry.name)
        const { size, blocks, mtime } = statSync(path)
        return { name: path.slice(root.length + 1), bytes: size, written: blocks * 512, modified: mtime }
      })
      .sort((one, other) => (one.name < other.name ? -1 : 1))
  }

  addDisk(disk: Omit<FileDisk, 'id'>, bytes: number | undefined): number {
    if (this.disks.some(({ slot }) => slot === disk.slot)) throw new ScriptError('failure: item with such slot already exists')
    if (this.disks.some(({ path }) => path === disk.path)) throw new ScriptError('failure: file already used')
    const path = this.local(disk.path)
    if (!existsSync(dirname(path))) throw new ScriptError('failure: no such directory')
    if (!existsSync(path)) {
      if (bytes === undefined) throw new ScriptError('failure: file does not exist')
      this.#grow(path, bytes, 0)
    } else if (bytes !== undefined && bytes > statSync(path).size) {
      this.#grow(path, bytes, statSync(path).size)
    }
    const added = { ...disk, id: this.#nextId++ }
    this.disks.push(added)
    this.#save()
    if (added.exported) this.#export(added)
    return added.id
  }

  changeDisk(disk: FileDisk, change: Partial<Omit<FileDisk, 'id'>>, bytes: number | undefined): void {
    if (change.slot !== undefined && this.disks.some((other) => other !== disk && other.slot === change.slot)) {
      throw new ScriptError('failure: item with such slot already exists')
    }
    const before = { ...disk }
    if (bytes !== undefined) {
      const size = this.bytesOf(disk)
      if (bytes < size) throw new ScriptError('failure: file cannot be made smaller')
      this.#grow(this.local(disk.path), bytes, size)
      if (disk.exported) this.#exporter.resized(disk.nqn)
    }
    Object.assign(disk, change)
    this.#save()
    if (before.exported && disk.exported && before.allowedHost !== disk.allowedHost) this.#exporter.allow(before.nqn, disk.allowedHost)
    if ((['exported', 'nqn', 'port'] as const).some((key) => before[key] !== disk[key])) {
      if (before.exported) this.#exporter.unexport(before.nqn)
      if (disk.exported) this.#export(disk)
    }
  }

  removeDisk(disk: FileDisk): void {
    if (disk.exported) this.#exporter.unexport(disk.nqn)
    this.disks = this.disks.filter((other) => other !== disk)
    this.#save()
  }

  removeFile(name: string): void {
    if (this.disks.some(({ path }) => path === `/${name}`)) throw new ScriptError('failure: file is in use')
    rmSync(this.local(`/${name}`))
  }

  /** Data, not settings. Pieces of zeros stay holes. */
  async copyDisk(source: FileDisk, target: FileDisk, progress: (done: number, of: number) => void): Promise<void> {
    const size = this.bytesOf(source)
    if (this.bytesOf(target) < size) throw new ScriptError('failure: destination is too small')
    const from = openSync(this.local(source.path), 'r')
    const to = openSync(this.local(target.path), 'r+')
    try {
      const piece = Buffer.alloc(COPY_PIECE_BYTES)
      const zeros = Buffer.alloc(COPY_PIECE_BYTES)
      for (let at = 0; at < size; ) {
        const got = readSync(from, piece, 0, COPY_PIECE_BYTES, at)
        if (piece.compare(zeros, 0, got, 0, got) !== 0) writeSync(to, piece, 0, got, at)
        at += got
        progress(at, size)
        await new Promise(setImmediate)
      }
    } finally {
      closeSync(from)
      closeSync(to)
    }
  }

  #grow(path: string, bytes: number, from: number): void {
    if (bytes - from > this.freeBytes) throw new ScriptError('failure: not enough space')
    if (from === 0) {
      const file = openSync(path, 'a')
      ftruncateSync(file, bytes)
      closeSync(file)
    } else truncateSync(path, bytes)
  }

  #export({ nqn, path, port, allowedHost, slot }: FileDisk): void {
    this.#exporter.export({ nqn: nqn || slot, path: this.local(path), port, allowedHost })
  }

  #save(): void {
    const next = `${this.#stateFile}.new`
    writeFileSync(next, JSON.stringify({ disks: this.disks, nextId: this.#nextId }))
    renameSync(next, this.#stateFile)
  }
}
