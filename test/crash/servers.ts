/**
 * The servers that the crash matrix ends: processes of their own, and a worker of this one. All serve a file.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { createDevice, type Device, worker } from '../../src/index.ts'
import { SHARED_MEMORY } from '../matrix/table.ts'
import type { Cell } from './table.ts'

const NATIVE = fileURLToPath(new URL('../../target/debug/examples/crash_server', import.meta.url))
const NODE = fileURLToPath(new URL('./node-server.ts', import.meta.url))
const CLI = fileURLToPath(new URL('../../cli/bin/run.js', import.meta.url))
const START_LIMIT_MS = 30_000
const END_LIMIT_MS = 40_000
/** So long each request takes where one must be open when the server ends. */
const SLOW_MS = 10

export class Server {
  static #running = new Set<Server>()
  readonly id: number
  #process: ChildProcess

  private constructor(process: ChildProcess, id: number) {
    this.#process = process
    this.id = id
    Server.#running.add(this)
    process.on('exit', () => Server.#running.delete(this))
  }

  /** Those that a cell which failed has left. */
  static killAll(): void {
    for (const server of Server.#running) server.signal('SIGKILL')
  }

  /** Those whose process is there. */
  static running(): string[] {
    return [...Server.#running].map(({ id }) => `the server of device ${id}`)
  }

  /** A server of native code; with `id` it recovers that device. */
  static native(image: string, { mode, recovery, load }: Cell, id?: number): Promise<Server> {
    const delay = load === 'flush' ? SLOW_MS : 0
    const buffers = mode === 'shmem' ? `shmem=${SHARED_MEMORY}` : mode
    return Server.#start(NATIVE, [image, buffers, recovery, String(delay), ...(id === undefined ? [] : [String(id)])])
  }

  /** A server in Node.js, which handles signals. */
  static node(image: string, cell: Cell): Promise<Server> {
    return Server.#start(process.execPath, [NODE, image, JSON.stringify(cell)])
  }

  /** `ublk add`, in the foreground. */
  static cli(image: string, { mode, recovery, load }: Cell): Promise<Server> {
    const target = load === 'flush' ? ['fault', '--over', 'file', image, '--delay', `${SLOW_MS}ms`] : ['file', image]
    const way = mode === 'batch' ? ['--batch'] : ['--data-path', mode]
    const options = ['--recovery', recovery, '--depth', '16', '--queues', '2', '--foreground']
    return Server.#start(process.execPath, [CLI, 'add', ...target, ...way, ...options])
  }

  static async #start(program: string, args: string[]): Promise<Server> {
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    const timer = setTimeout(() => child.kill('SIGKILL'), START_LIMIT_MS)
    try {
      for await (const line of createInterface(child.stdout)) {
        const id = /^(?:device |\/dev\/ublkb)(\d+)/.exec(line)?.[1]
        if (id !== undefined) return new Server(child, Number(id))
      }
    } finally {
      clearTimeout(timer)
    }
    throw new Error('the server ended before its device was live')
  }

  say(line: string): void {
    this.#process.stdin?.write(`${line}\n`)
  }

  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal)
  }

  hasEnded(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null
  }

  /** Its input ends: it stops the device and ends. */
  async end(): Promise<void> {
    this.#process.stdin?.end()
    await this.endsWith(0)
  }

  async kill(): Promise<void> {
    this.signal('SIGKILL')
    await this.endsWith('SIGKILL')
  }

  /** Waits for its end, which must be this exit status, or by one of these signals. */
  async endsWith(...expected: Array<number | NodeJS.Signals>): Promise<void> {
    if (!this.hasEnded()) {
      await once(this.#process, 'exit', { signal: AbortSignal.timeout(END_LIMIT_MS) }).catch(() => {
        throw new Error(`the server does not end within ${END_LIMIT_MS} ms`)
      })
    }
    const { exitCode, signalCode } = this.#process
    const end = exitCode ?? signalCode
    if (end === null || !expected.includes(end)) throw new Error(`the server ended with ${end} instead of ${expected.join(' or ')}`)
  }
}

/** A device of this process, served by a worker that ends when the first byte of `order` is 1. */
export function workerDevice(image: string, size: number, { recovery, load }: Cell, order: SharedArrayBuffer): Promise<Device> {
  const options = { path: image, size, order, delayMs: load === 'flush' ? SLOW_MS : 0 }
  return createDevice({ backend: worker(new URL('./mortal-backend.ts', import.meta.url), { options }), recovery, depth: 16 })
}
