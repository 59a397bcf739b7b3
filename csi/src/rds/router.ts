/**
 * A router as the provider sees it: what it can do, its disks, its files, its pool, and the few writes. Each write is one command whose
 * success was confirmed by the command's own last line; whether it did what was meant is the caller's to read back.
 */
import { randomBytes } from 'node:crypto'
import { failedPrecondition } from '../errors.ts'
import {
  addDisk,
  copyDisk,
  type Menu,
  READ_VERSION,
  readArguments,
  readDetail,
  readJson,
  removeDisk,
  removeFile,
  type Script,
  setDisk,
  type Values,
} from './command.ts'
import { outcomeOf, type Wrapping, withoutLog, wrapped } from './exchange.ts'
import { NEEDED_VERSION, refusal } from './refusals.ts'
import { integer, integerIfAny, type Row, rowsOfDetail, rowsOfJson } from './replies.ts'
import { ConnectionLost, UnreadableReply } from './retry.ts'
import type { Transport } from './session.ts'

/** A file disk. */
export interface RouterDisk {
  readonly slot: string
  readonly path: string
  readonly bytes: bigint
  /** Whether the router itself would mount what is inside. */
  readonly mounts: boolean
  readonly exported: boolean
  readonly port: string
  readonly nqn: string
  /** Host NQN that may connect; empty: every one. */
  readonly allowedHost: string
}

/** A disk in a list. One whose row has no size, such as one without its file, must not make the others unreadable. */
export type ListedDisk = Omit<RouterDisk, 'bytes'> & { readonly bytes: bigint | undefined }

/** What was found out about a router; asked again by every probe. */
export interface RouterFacts {
  readonly version: string
  readonly json: boolean
  readonly wrapping: Wrapping
  /** It can tell hosts apart. */
  readonly fences: boolean
  /** It copies the data of one disk to another. */
  readonly copies: boolean
}

/** A copy is as long as its data; the limit is the caller's signal. */
const COPY_TIMEOUT_MS = 2 ** 31 - 1

export class Router {
  readonly #transport: Transport
  #facts: RouterFacts | undefined

  constructor(transport: Transport) {
    this.#transport = transport
  }

  get known(): RouterFacts | undefined {
    return this.#facts
  }

  async facts(signal: AbortSignal): Promise<RouterFacts> {
    this.#facts ??= await this.#look(signal)
    return this.#facts
  }

  /** Asks anew. @throws {CsiError} FAILED_PRECONDITION naming the version that is needed */
  async probe(signal: AbortSignal): Promise<RouterFacts> {
    this.#facts = await this.#look(signal)
    return this.#facts
  }

  async #look(signal: AbortSignal): Promise<RouterFacts> {
    const reply = withoutLog(await this.#transport.exec(READ_VERSION, signal)).trim()
    const found = /^(\d+)\.(\d+)\S*/.exec(reply)
    if (!found) {
      if (reply === '') throw new ConnectionLost('the router did not tell its version')
      throw refusal('asking for the version', reply)
    }
    const [version, major, minor] = [found[0], Number(found[1]), Number(found[2])]
    const [neededMajor, neededMinor] = NEEDED_VERSION.split('.').map(Number) as [number, number]
    if (major < neededMajor || (major === neededMajor && minor < neededMinor)) {
      throw failedPrecondition(`the router runs RouterOS ${version}; file disks with an NQN of their own need ${NEEDED_VERSION} or later`)
    }
    const wrapping = await this.#wrapping(signal)
    const added = await this.#argumentsOf('disk,add', wrapping, signal)
    if (added && !added.includes('nvme-tcp-export')) {
      throw failedPrecondition(`RouterOS ${version} has no NVMe/TCP: install its package rose-storage, version ${version}, and reboot it`)
    }
    const copied = await this.#argumentsOf('disk,copy', wrapping, signal)
    return {
      version,
      json: added !== undefined,
      wrapping,
      fences: added?.includes('nvme-tcp-server-allow-host-name') ?? false,
      copies: (copied?.includes('src') && copied.includes('dst')) ?? false,
    }
  }

  async #wrapping(signal: AbortSignal): Promise<Wrapping> {
    const nonce = newNonce()
    const reply = await this.#transport.exec(wrapped(':put ""' as Script, nonce, 'onerror'), signal)
    const outcome = outcomeOf(reply, nonce)
    if (outcome.kind === 'cut') throw new ConnectionLost('the reply of the router was cut')
    return outcome.kind === 'done' ? 'onerror' : 'plain'
  }

  /** Undefined: this router does not tell, or not as JSON. */
  async #argumentsOf(command: 'disk,add' | 'disk,copy', wrapping: Wrapping, signal: AbortSignal): Promise<string[] | undefined> {
    const nonce = newNonce()
    const outcome = outcomeOf(await this.#transport.exec(wrapped(readArguments(command), nonce, wrapping), signal), nonce)
    if (outcome.kind === 'cut') throw new ConnectionLost('the reply of the router was cut')
    if (outcome.kind === 'refused') return undefined
    try {
      return rowsOfJson(outcome.body).flatMap((row) => (row.type === 'child' && row.name ? [row.name] : []))
    } catch (cause) {
      if (cause instanceof UnreadableReply) return undefined
      throw cause
    }
  }

  async disk(slot: string, signal: AbortSignal): Promise<RouterDisk | undefined> {
    const rows = await this.#read('/disk', { slot }, signal)
    if (rows.length > 1) throw new UnreadableReply(`${rows.length} disks are called ${slot}`)
    return rows[0] && { ...settingsOf(rows[0]), bytes: integer(rows[0], 'size') }
  }

  /** All file disks, also those of others. */
  async disks(signal: AbortSignal): Promise<ListedDisk[]> {
    const rows = await this.#read('/disk', { type: 'file' }, signal)
    return rows.map((row) => ({ ...settingsOf(row), bytes: integerIfAny(row, 'size') }))
  }

  /** Names of files, without a slash in front; those that begin otherwise are left out here and not by the router. */
  async filesBeginning(prefix: string, signal: AbortSignal): Promise<string[]> {
    const rows = await this.#read('/file', {}, signal)
    return rows.flatMap((row) => (row.name?.startsWith(prefix) ? [row.name] : []))
  }

  async fileExists(name: string, signal: AbortSignal): Promise<boolean> {
    return (await this.#read('/file', { name }, signal)).length > 0
  }

  /** Size and free space of the file system that is mounted there. */
  async pool(mountPoint: string, signal: AbortSignal): Promise<{ bytes: bigint; free: bigint } | undefined> {
    const [row] = await this.#read('/disk', { 'mount-point': mountPoint }, signal)
    return row && { bytes: integer(row, 'size'), free: integer(row, 'free') }
  }

  add(values: Values, signal: AbortSignal): Promise<void> {
    return this.#write(`adding the disk ${values.slot}`, addDisk(values), signal)
  }

  set(slot: string, values: Values, signal: AbortSignal): Promise<void> {
    return this.#write(`changing the disk ${slot}`, setDisk(slot, values), signal)
  }

  remove(slot: string, signal: AbortSignal): Promise<void> {
    return this.#write(`removing the disk ${slot}`, removeDisk(slot), signal)
  }

  removeFile(name: string, signal: AbortSignal): Promise<void> {
    return this.#write(`removing the file ${name}`, removeFile(name), signal)
  }

  async copy(from: string, to: string, signal: AbortSignal): Promise<void> {
    // It prints its progress, as `status: …` or as a table: what counts is that it came to its end.
    await this.#run(`copying ${from} to ${to}`, copyDisk(from, to), signal, COPY_TIMEOUT_MS)
  }

  async #read(menu: Menu, values: Values, signal: AbortSignal): Promise<Row[]> {
    const { json } = await this.facts(signal)
    const script = json ? readJson(menu, values) : readDetail(menu, values)
    const body = await this.#run(`reading ${menu}`, script, signal)
    return json ? rowsOfJson(body) : rowsOfDetail(body)
  }

  async #write(operation: string, script: Script, signal: AbortSignal): Promise<void> {
    const printed = withoutLog(await this.#run(operation, script, signal)).trim()
    if (printed !== '') throw refusal(operation, printed)
  }

  async #run(operation: string, script: Script, signal: AbortSignal, timeoutMs?: number): Promise<string> {
    const { wrapping } = await this.facts(signal)
    const nonce = newNonce()
    const outcome = outcomeOf(await this.#transport.exec(wrapped(script, nonce, wrapping), signal, timeoutMs), nonce)
    if (outcome.kind === 'refused') throw refusal(operation, outcome.reason)
    if (outcome.kind === 'cut') throw new ConnectionLost(`${operation}: the reply of the router was cut`)
    return outcome.body
  }
}

const newNonce = (): string => randomBytes(8).toString('hex')

/** All but the size: that is `size`, and not `file-size`, which is rounded to a tenth of its unit. */
function settingsOf(row: Row): Omit<RouterDisk, 'bytes'> {
  return {
    slot: row.slot ?? '',
    path: row['file-path'] ?? '',
    mounts: row['mount-filesystem'] !== 'no',
    exported: row['nvme-tcp-export'] === 'yes',
    port: row['nvme-tcp-server-port'] ?? '',
    nqn: row['nvme-tcp-server-nqn'] ?? '',
    allowedHost: row['nvme-tcp-server-allow-host-name'] ?? '',
  }
}
