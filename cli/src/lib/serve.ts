/**
 * Serves one device in this process, made or recovered by it: the device, its record on disk and its socket, from start to end.
 *
 * Order of the start: add the device (the kernel gives N), socket, record, go live. A device that can be seen live has
 * its record, and a server that is killed at any stage leaves what `ublk del N` needs.
 * Order of the end: stop, remove socket and record, remove the device. N is free for others only after the last step,
 * so nothing of theirs is ever removed.
 *
 * Of a recovery: the record of the former server stays until the device is live, when ours takes its place; a failure leaves
 * both as they were. A device that is quiesced keeps its record for the next server.
 */

import { resolve } from 'node:path'
import type { Device } from 'ublk'
import { type DescribedDevice, toDescribed } from './describe.ts'
import { EXIT, Failure, interrupted } from './failure.ts'
import { prometheusText } from './metrics.ts'
import { ownIdentity } from './process.ts'
import { diskSequenceOf, type ServerState, StateDirectory } from './state.ts'
import { listen, type StatusServer } from './status-server.ts'
import { deviceOptions, formatTarget, recoverOptions, type ServeSpec, withFlagNames } from './target.ts'
import { version } from './version.ts'

/** How often the server of a stopped device looks whether another program has removed it. */
const STOPPED_POLL_MS = 1_000
/** Warnings that are kept for whoever asks: the last ones. */
const KEPT_WARNINGS = 16

/** Something that the device can live with, such as a leg that a mirror goes on without. */
export interface Warning {
  /** ISO 8601. */
  at: string
  message: string
}

export interface StartOptions {
  /** Aborts the start: it rejects, and nothing is left behind. */
  signal: AbortSignal
  /** Called as soon as the device has its number, before it is live. */
  onCreated?: (id: number) => void
  /** Called with each error while the device is served; the one that ends it also comes as `ended`. */
  onError?: (error: Error) => void
  /** Called with each thing that the device can live with. */
  onWarning?: (warning: Error) => void
}

interface Listeners {
  onError: StartOptions['onError']
  onWarning: StartOptions['onWarning']
}

export class DeviceServer {
  /** Resolves when the device is gone, whoever removed it: with the error that ended it, or null. Never rejects. */
  readonly ended: Promise<Error | null>

  readonly #device: Device
  readonly #directory: StateDirectory
  readonly #state: ServerState
  #socket: StatusServer | null = null
  #lastError: Error | null = null
  #warnings: Warning[] = []
  /** All of them, also those that are not kept. */
  #warned = 0
  #closing: Promise<void> | null = null
  /** The device is being quiesced, or is the next server's by now. */
  #isLeaving = false
  #recordPoll: NodeJS.Timeout | null = null
  readonly #patience = new AbortController()
  #end!: (error: Error | null) => void

  /** Adds the device and brings it live. */
  static async start(spec: ServeSpec, { signal, onCreated, onError, onWarning }: StartOptions): Promise<DeviceServer> {
    const directory = StateDirectory.forUser()
    directory.ensure()
    const { Device } = await import('ublk')
    try {
      const device = await Device.create({ ...(await deviceOptions(spec)), closeOnSignal: false, signal })
      onCreated?.(device.id)
      const server = new DeviceServer(device, spec, directory, { onError, onWarning })
      await server.#start(signal)
      return server
    } catch (error) {
      throw signal.aborted ? interrupted(signal, error) : namedByFlags(error)
    }
  }

  /** Takes over device `id`, which its former server left. */
  static async recover(id: number, spec: ServeSpec, { signal, onError, onWarning }: StartOptions): Promise<DeviceServer> {
    const directory = StateDirectory.forUser()
    directory.ensure()
    const { recoverDevice } = await import('ublk')
    try {
      const { sharedMemory } = directory.read(id) ?? {}
      const options = { ...(await recoverOptions(spec)), ...(sharedMemory !== undefined && { sharedMemory }) }
      const device = await recoverDevice(id, { ...options, closeOnSignal: false, signal })
      // Until its record is ours, whatever ends this process leaves the device to the next server.
      device.unref()
      const server = new DeviceServer(device, spec, directory, { onError, onWarning })
      directory.removeSocket(id)
      await server.#openToOthers()
      device.ref()
      return server
    } catch (error) {
      throw signal.aborted ? interrupted(signal, error, id) : namedByFlags(error)
    }
  }

  private constructor(device: Device, spec: ServeSpec, directory: StateDirectory, listeners: Listeners) {
    const { onError, onWarning } = listeners
    this.#device = device
    this.#directory = directory
    this.#state = { version: version(), id: device.id, ...ownIdentity(), startedAt: new Date().toISOString(), spec }
    this.ended = new Promise((resolve) => {
      this.#end = resolve
    })
    device.on('error', (error) => {
      this.#lastError = error
      onError?.(error)
    })
    device.on('warning', (warning) => {
      this.#warned += 1
      this.#warnings = [...this.#warnings, { at: new Date().toISOString(), message: warning.message }].slice(-KEPT_WARNINGS)
      onWarning?.(warning)
    })
    device.on('stop', () => this.#stopped())
    device.on('close', () => this.#finish(this.#closing === null ? this.#lastError : null))
    // An end of the process that nobody planned: the library removes the device, unless it is to be recovered.
    process.once('exit', () => this.#withdraw({ keepsRecord: this.#isRecoverable }))
  }

  get id(): number {
    return this.#state.id
  }

  get path(): string {
    return this.#device.path
  }

  get #isRecoverable(): boolean {
    return (this.#state.spec.device.recovery ?? 'off') !== 'off'
  }

  async describe(): Promise<DescribedDevice> {
    return toDescribed(await this.#device.info(), this.#state, true, this.#directory)
  }

  /**
   * Stops and removes the device, socket and record. Twice is the same as once.
   * @param graceMs time for requests that a backend has not answered; then they fail. Default: their own time limit.
   */
  close({ graceMs }: { graceMs?: number } = {}): Promise<void> {
    if (graceMs !== undefined) setTimeout(() => this.#patience.abort(), graceMs).unref()
    this.#closing ??= this.#close()
    return this.#closing
  }

  /**
   * Lets go of the device and keeps its record: another server can recover it.
   * @param timeoutMs until it rejects; default the library's
   */
  async quiesce(timeoutMs?: number): Promise<void> {
    this.#isLeaving = true
    try {
      await this.#device.quiesce(timeoutMs === undefined ? {} : { timeoutMs })
    } catch (error) {
      this.#isLeaving = false
      throw error
    }
    // Who wanted it gone meanwhile waits for that.
    if (this.#closing !== null) return this.#closing
    await this.#device.close()
    this.#finish(null)
  }

  /**
   * Changes its size; the next server will serve that one.
   * @param add the words of FILE that ask for it; none when it is asked for by hand
   */
  async resize(size: string, add: string[]): Promise<void> {
    const { spec } = this.#state
    if (spec.target.type === 'module') throw moduleKnowsItsSize(this.id)
    await this.#device.resize(size)
    this.#state.spec = resized(spec, size, add)
    this.#directory.write(this.#state)
  }

  async #start(signal: AbortSignal): Promise<void> {
    try {
      // The kernel has just given us N: what is there under this name belongs to a server that is gone.
      this.#directory.remove(this.id)
      await this.#openToOthers()
      await this.#device.start({ signal })
      // It is a disk only now.
      await this.#record()
    } catch (error) {
      // The error that began it is the one to tell.
      await this.close().catch(() => undefined)
      throw error
    }
  }

  /** Socket and record. */
  async #openToOthers(): Promise<void> {
    this.#socket = await listen(this.#directory.socketPath(this.id), {
      info: () => this.describe(),
      stats: async () => this.#stats(),
      metrics: async () => {
        const { target } = this.#state.spec
        const measured = { id: this.id, size: this.#device.size, target: formatTarget(target), stats: this.#device.stats() }
        return prometheusText({ ...measured, warnings: this.#warned })
      },
      stop: () => this.close(),
      quiesce: (timeoutMs) => this.quiesce(timeoutMs),
      resize: (size, add) => this.resize(size, add),
      sharedMemory: async () => ({ id: this.id, sharedMemory: await this.#device.sharedMemory() }),
      share: (path, readOnly) => this.#record(this.#device.shareMemory({ path, readOnly })),
      unshare: (path) => this.#unshare(path),
    })
    await this.#record()
  }

  /** With what is shared after a change, also after one that has failed half-way. */
  async #record(change?: Promise<void>): Promise<void> {
    try {
      await change
    } finally {
      const sharedMemory = await this.#device.sharedMemory()
      if (sharedMemory.length > 0 || this.#state.sharedMemory !== undefined) this.#state.sharedMemory = sharedMemory
      const diskSequence = diskSequenceOf(this.id)
      if (diskSequence !== undefined) this.#state.diskSequence = diskSequence
      // While it is being removed, the record is on its way out, too.
      if (this.#closing === null) this.#directory.write(this.#state)
    }
  }

  async #unshare(path: string): Promise<void> {
    // Should this server die before the driver has let go of it, the next one finishes that; after it, there is nothing to map.
    const shared = await this.#device.sharedMemory()
    const leaving = shared.map((memory) => (memory.path === resolve(path) ? { ...memory, fileId: '' } : memory))
    this.#directory.write({ ...this.#state, sharedMemory: leaving })
    await this.#record(this.#device.unshareMemory(path))
  }

  async #close(): Promise<void> {
    try {
      // Out of patience the call rejects, and the stop goes on: `close` below waits for it.
      await this.#device.stop({ signal: this.#patience.signal }).catch((error: Error) => {
        if (error.name !== 'AbortError') throw error
      })
      // A quiesce that was under way came first, and has left it to the next server.
      const { state } = this.#device
      if (state === 'quiesced' || state === 'fail_io') await (await import('ublk')).deleteDevice(this.id)
      this.#withdraw()
      await this.#device.close()
      this.#finish(null)
    } catch (error) {
      this.#finish(error as Error)
      throw error
    }
  }

  #stats(): object {
    return { id: this.id, path: this.path, size: this.#device.size, ...this.#device.stats(), warnings: this.#warnings }
  }

  #stopped(): void {
    if (this.#closing !== null || this.#isLeaving || this.#device.state === 'closed') return
    if (this.#device.state === 'dead') this.#watchRecord()
    // Serving failed, and the kernel keeps the device for recovery by another server.
    else this.#finish(this.#lastError ?? new Error(`device ${this.id} is ${this.#device.state}`))
  }

  /** The device was stopped from outside. Whoever did that may also remove it, and nothing tells us. */
  #watchRecord(): void {
    this.#recordPoll ??= setInterval(() => {
      if (this.#device.state !== 'dead') return
      this.#device.info().catch((error: { code?: string }) => {
        if (error.code === 'ERR_UBLK_NO_DEVICE') void this.close().catch(() => undefined)
      })
    }, STOPPED_POLL_MS)
  }

  /** Takes socket and record away. Answers under way still get out: that to `POST /stop` comes after this. */
  #withdraw({ keepsRecord = false } = {}): void {
    this.#socket?.close()
    this.#socket = null
    if (!keepsRecord && this.#directory.read(this.id)?.pid === process.pid) this.#directory.remove(this.id)
  }

  #finish(error: Error | null): void {
    if (this.#recordPoll !== null) clearInterval(this.#recordPoll)
    // With recovery a server that failed or quiesced leaves the device and its record for the next one.
    this.#withdraw({ keepsRecord: this.#isLeaving || (error !== null && this.#isRecoverable) })
    this.#end(error)
  }
}

/** What is served when `spec` has another size. Only words of FILE replace words of FILE: by them `ublk serve` sees what has changed there. */
export function resized(spec: ServeSpec, size: string, add: string[]): ServeSpec {
  const { keeper } = spec
  return { ...spec, device: { ...spec.device, size }, ...(keeper !== undefined && add.length > 0 && { keeper: { ...keeper, add } }) }
}

function moduleKnowsItsSize(id: number): Failure {
  return new Failure({
    code: 'ERR_UBLK_INVALID_STATE',
    message: `device ${id} is served by a module, which says itself how large it is`,
    hint: 'Make it with a larger --size, or serve it in a program of your own, which can call `device.resize()`.',
    deviceId: id,
    exitCode: EXIT.failed,
  })
}

/** The same error, in the words of the command line. */
function namedByFlags(error: unknown): unknown {
  if (error instanceof TypeError || error instanceof RangeError) error.message = withFlagNames(error.message)
  return error
}
