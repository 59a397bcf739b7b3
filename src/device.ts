/**
 * One block device: made, started, stopped and removed.
 *
 * Thread: the one that made it. Calls that change the state run one after another, in the order they were made; only `close` interrupts a
 * `start` that has not come through.
 */
import { EventEmitter } from 'node:events'
import { abortable, type CallOptions, checkSignal } from './abort.ts'
import { native } from './addon.ts'
import type { BackendInfo } from './backend.ts'
import { abortError, fromNative, invalidValue, UblkError, unwrap } from './errors.ts'
import { takenAlong, track, untrack } from './exit.ts'
import { charPath, type DeviceInfo, type DeviceState, toDeviceInfo } from './info.ts'
import { checkTimeout, deviceInfo } from './list.ts'
import type { DeviceSpec, NativeBinding, NativeDevice, NativeEvent, Outcome } from './native.ts'
import {
  type CheckedOptions,
  checkOptions,
  checkPromises,
  checkRecoverOptions,
  type DeviceOptions,
  type RecoverOptions,
} from './options.ts'
import type { HandlerFailure } from './ring.ts'
import { makeServer, type Server } from './server.ts'
import { checkMemory, type SharedMemory, type SharedMemoryInfo, toSharedMemoryInfo } from './shared-memory.ts'
import { checkDeviceSize, parseSize, type Size } from './size.ts'
import { type DeviceStats, toDeviceStats } from './stats.ts'

/** Options of `Device#waitFor`. */
export interface WaitOptions extends CallOptions {
  /** Milliseconds until it rejects with `ERR_UBLK_TIMEOUT`; default 30000. */
  timeoutMs?: number
}

/** Events of a `Device` and their arguments. */
export interface DeviceEvents {
  /** The block device is live. */
  start: []
  /** The block device is gone; the record stays unless `close` follows. */
  stop: []
  /** The device is removed. Emitted once. */
  close: []
  /** Something failed while nobody was calling: a handler, a worker, a queue. Nothing is emitted when nobody listens. */
  error: [error: UblkError]
  /** Something that the device can live with: a leg of a mirror has failed, or is in sync again. The first listener hears also what was before. */
  warning: [error: UblkError]
  /** A handler missed its deadline; the request was answered ETIMEDOUT. */
  timeout: [details: { queue: number }]
}

const STATES: readonly DeviceState[] = ['dead', 'live', 'quiesced', 'fail_io', 'closed']
/** Warnings that are kept for the first listener: the last ones. */
const MOST_UNHEARD = 16

/** ADD_DEV, or the begin of a recovery. */
interface Adding {
  /** `starts` as in `NativeBinding`. */
  begin(binding: NativeBinding, spec: DeviceSpec, starts: boolean, onEvent: (event: NativeEvent) => void): Promise<Outcome<NativeDevice>>
  /** Its users wait for it: an abort may end the wait for a server, and nothing else. */
  isRecovery: boolean
}

const newDevice: Adding = {
  begin: (binding, spec, starts, onEvent) => binding.addDevice(spec, starts, onEvent),
  isRecovery: false,
}

/**
 * A ublk device of this process.
 *
 * `dead` → `start` → `live` → `stop` → `dead` → `close` → `closed`. When its server fails, it closes by itself, or with the option
 * `recovery` becomes `quiesced` or `fail_io`; `error` tells why. `quiesce` does that on purpose. A device in these two states is the next
 * server's (`recoverDevice`): this object has nothing to do with it any more, and `close` leaves it.
 */
export class Device extends EventEmitter<DeviceEvents> implements AsyncDisposable {
  readonly #native: NativeDevice
  readonly #server: Server
  readonly #options: CheckedOptions
  #info: DeviceInfo
  #state: DeviceState = 'dead'
  #keepsAlive = true
  /** The end of the last call that changes the state. */
  #last: Promise<unknown> = Promise.resolve()
  /** Aborted to give up a running start. */
  #starting: AbortController | null = null
  #closing: Promise<void> | null = null
  #isStopping = false
  /** Why this run failed: the first reason is the one to tell. */
  #failure: UblkError | null = null
  #findingReason: Promise<void> | null = null
  readonly #waiters = new Set<() => void>()
  /** Warnings from before anybody listened: who comes first hears them. */
  #unheard: UblkError[] = []

  /** @internal */
  private constructor(nativeDevice: NativeDevice, server: Server, options: CheckedOptions, info: DeviceInfo) {
    super()
    this.#native = nativeDevice
    this.#server = server
    this.#options = options
    this.#info = info
    // 'newListener' is Node's own, and none of ours.
    EventEmitter.prototype.on.call(this, 'newListener', (event) => {
      if (event !== 'warning') return
      for (const warning of this.#unheard.splice(0)) this.#emitLater(warning)
    })
    track(this, options.closeOnSignal)
  }

  /** Adds the device without starting it: state `dead`. Reads the backend module first, if there is one. */
  static async create(options: DeviceOptions): Promise<Device> {
    return Device.#add(checkOptions(options), false, newDevice)
  }

  /** Adds and starts it: state `live`. A failure leaves nothing behind. @internal */
  static async createLive(options: DeviceOptions): Promise<Device> {
    return Device.#live(checkOptions(options), newDevice)
  }

  /** Takes over a device and brings it live again. A failure leaves it to the next server. @internal */
  static async recoverLive(id: number, options: RecoverOptions): Promise<Device> {
    const info = await deviceInfo(id, options?.signal === undefined ? {} : { signal: options.signal })
    const checked = checkRecoverOptions(info, options)
    const begin: Adding['begin'] = async (binding, spec, starts, onEvent) => {
      checkPromises(info, spec)
      return binding.recoverDevice(id, spec, starts, onEvent)
    }
    const device = await Device.#live(checked, { begin, isRecovery: true })
    if (checked.sharedMemory.length > 0) await device.#tellLostMemory(checked.sharedMemory)
    return device
  }

  async #tellLostMemory(former: DeviceSpec['sharedMemory']): Promise<void> {
    const taken = new Set((await this.sharedMemory()).map(({ path }) => path))
    for (const { path } of former.filter(({ path, fileId }) => fileId !== '' && !taken.has(path))) {
      const message = `${path} is not the file any more that the users of device ${this.id} shared: what they read and write from there is copied`
      this.#warn(new UblkError('ERR_UBLK_FILE', { message, deviceId: this.id }))
    }
  }

  static async #live(checked: CheckedOptions, add: Adding): Promise<Device> {
    const device = await Device.#add(checked, true, add)
    try {
      if (device.state !== 'live') await device.#exclusive(() => device.#start(checked.signal, add.isRecovery))
      return device
    } catch (error) {
      await device.close()
      throw error
    }
  }

  /** @param starts a native target at once; a backend in JavaScript needs its device first */
  static async #add(checked: CheckedOptions, starts: boolean, add: Adding): Promise<Device> {
    const { signal } = checked
    if (signal?.aborted) throw abortError(signal, 'creating the device')
    const binding = native()
    const { server, spec } = await makeServer(checked, binding)
    let device: Device | null = null
    try {
      if (signal?.aborted) throw abortError(signal, 'creating the device')
      const isNative = spec.target !== null
      // A device that starts at once may fail before there is an object to tell.
      const early: NativeEvent[] = []
      const hear = (event: NativeEvent): void => (device === null ? void early.push(event) : device.#hear(event))
      const adding = add.begin(binding, spec, starts && isNative, hear)
      device = await takenAlong(adding, checked.closeOnSignal, (nativeDevice) => {
        return new Device(nativeDevice, server, checked, toDeviceInfo(nativeDevice.granted))
      })
      if (starts && isNative) device.#enter('live', 'start')
      device.#applyRef()
      early.forEach(hear)
      const isTooLate = add.isRecovery && device.state === 'live'
      if (signal?.aborted && !isTooLate) throw abortError(signal, 'creating the device')
      return device
    } catch (error) {
      await device?.close()
      await server.finish()
      throw error
    }
  }

  /** N of /dev/ublkbN. */
  get id(): number {
    return this.#info.id
  }

  /** Block device, such as /dev/ublkb0. It exists while the state is `live`. */
  get path(): string {
    return this.#info.path
  }

  /** Character device of the server, such as /dev/ublkc0. */
  get charPath(): string {
    return charPath(this.#info.id)
  }

  get state(): DeviceState {
    return this.#state
  }

  /** Whether the state is `live`. */
  get isRunning(): boolean {
    return this.#state === 'live'
  }

  /** Size in bytes. */
  get size(): number {
    return this.#info.size
  }

  /** How data moves: the `dataPath` that was taken, never 'auto'. */
  get dataPath(): string {
    return this.#native.dataPath
  }

  /** Serves it: resolves when the block device is live. A failure or an abort leaves it `dead`. */
  async start(options: CallOptions = {}): Promise<void> {
    const signal = checkSignal(options.signal)
    await this.#exclusive(() => this.#start(signal))
  }

  /**
   * Removes the block device and keeps the record, so that it can start again. Idempotent.
   * Waits for open requests; an abort answers them EIO, and stopping goes on.
   */
  async stop(options: CallOptions = {}): Promise<void> {
    const signal = checkSignal(options.signal)
    await this.#giveUpHandlersOnAbort(
      this.#exclusive(() => this.#stop()),
      signal,
      'stopping',
    )
  }

  /**
   * Lets go of it for another server, without an error to its users (Linux 6.16, and the option `recovery`): what is open is answered, new
   * requests wait, and the state is `quiesced` (`fail_io` with the recovery 'fail-io', whose new requests fail) until `recoverDevice` in this
   * or another process. Idempotent. An abort ends the wait, and quiescing goes on.
   * @param options.timeoutMs milliseconds until it rejects with `ERR_UBLK_TIMEOUT`, default 30000: then call it again, or end the process
   */
  async quiesce(options: WaitOptions = {}): Promise<void> {
    const signal = checkSignal(options.signal)
    const limitMs = checkTimeout(options.timeoutMs)
    await abortable(
      this.#exclusive(() => this.#quiesce(limitMs)),
      signal,
      `quiescing device ${this.id}`,
    )
  }

  /**
   * Changes the size of the live device (Linux 6.16). A file target must be as large, or made with `create`; memory cannot grow beyond
   * the size that it was made with. A backend in JavaScript is not asked: have it ready for the new size before.
   * @param size a multiple of the logical block size
   */
  async resize(size: Size, options: CallOptions = {}): Promise<void> {
    const signal = checkSignal(options.signal)
    const sizeBytes = checkDeviceSize(parseSize(size), this.#info.logicalBlockSize)
    await abortable(
      this.#exclusive(async () => {
        unwrap(await this.#native.resize(sizeBytes))
        this.#info = { ...this.#info, size: sizeBytes }
      }),
      signal,
      `resizing device ${this.id}`,
    )
  }

  /**
   * Lets the device's users share a file of memory too, as the option `sharedMemory` does (Linux 7.1, and a device with `dataPath` 'shmem').
   * Resolves when the requests that were open are answered: from then on those from this memory need no copy.
   * @throws `ERR_UBLK_FILE` naming the file and the rule; `ERR_UBLK_INVALID_STATE` when it is shared already, or the device moves its data
   *   in another way
   */
  async shareMemory(memory: SharedMemory, options: CallOptions = {}): Promise<void> {
    const signal = checkSignal(options.signal)
    const spec = checkMemory(memory)
    const sharing = this.#exclusive(async () => void unwrap(await this.#native.shareMemory(spec)))
    await abortable(sharing, signal, `sharing memory with device ${this.id}`)
  }

  /**
   * Lets go of a file that is shared. Resolves when no request uses it and it is unmapped: those from this memory are copied from then on.
   * @param path of the file, as when it was shared
   * @throws `ERR_UBLK_INVALID_STATE` when it is not shared
   */
  async unshareMemory(path: string, options: CallOptions = {}): Promise<void> {
    const signal = checkSignal(options.signal)
    const spec = checkMemory(path)
    const unsharing = this.#exclusive(async () => void unwrap(await this.#native.unshareMemory(spec.path)))
    await abortable(unsharing, signal, `letting go of memory of device ${this.id}`)
  }

  /** The files of memory that its users share with it now. Whoever is to recover the device must know them: see `RecoverOptions`. */
  async sharedMemory(options: CallOptions = {}): Promise<SharedMemoryInfo[]> {
    const signal = checkSignal(options.signal)
    const shared = unwrap(await abortable(this.#native.sharedMemory(), signal, `asking device ${this.id} for its shared memory`))
    return shared.map(toSharedMemoryInfo)
  }

  /** Stops and removes it, unless it waits for the next server. Twice is the same as once. An abort answers open requests EIO, and closing goes on. */
  async close(options: CallOptions = {}): Promise<void> {
    const signal = checkSignal(options.signal)
    if (this.#closing === null) {
      this.#starting?.abort(new UblkError('ERR_UBLK_INVALID_STATE', { message: `device ${this.id} was closed`, deviceId: this.id }))
      this.#closing = this.#exclusive(() => this.#close())
      // A device that could not be removed may be closed again.
      this.#closing.catch(() => {
        this.#closing = null
      })
    }
    await this.#giveUpHandlersOnAbort(this.#closing, signal, 'closing')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** What the kernel says of it. */
  async info(options: CallOptions = {}): Promise<DeviceInfo> {
    const signal = checkSignal(options.signal)
    return toDeviceInfo(unwrap(await abortable(this.#native.info(), signal, `asking about device ${this.id}`)))
  }

  /** Counters and latencies since the last start. */
  stats(): DeviceStats {
    return toDeviceStats(this.#native.stats())
  }

  /** Resolves when the device is in `state`; rejects with `ERR_UBLK_TIMEOUT`, or at once when it is closed and never will be. */
  async waitFor(state: DeviceState, options: WaitOptions = {}): Promise<void> {
    if (!STATES.includes(state)) throw invalidValue('state', `one of ${STATES.join(', ')}`, state)
    const timeoutMs = checkTimeout(options.timeoutMs)
    const signal = checkSignal(options.signal)
    let check = (): void => {}
    let timer: NodeJS.Timeout | undefined
    const reached = new Promise<void>((resolve, reject) => {
      const fail = (code: 'ERR_UBLK_TIMEOUT' | 'ERR_UBLK_INVALID_STATE', message: string): void =>
        reject(new UblkError(code, { message: `device ${this.id} ${message}`, deviceId: this.id }))
      check = () => {
        if (this.#state === state) resolve()
        else if (this.#state === 'closed') fail('ERR_UBLK_INVALID_STATE', `is closed and will never be ${state}`)
      }
      timer = setTimeout(() => fail('ERR_UBLK_TIMEOUT', `is ${this.#state}, not ${state}, after ${timeoutMs} ms`), timeoutMs)
      this.#waiters.add(check)
      check()
    })
    try {
      await abortable(reached, signal, `waiting for device ${this.id}`)
    } finally {
      clearTimeout(timer)
      this.#waiters.delete(check)
    }
  }

  /** A live device keeps the process alive (default). */
  ref(): this {
    this.#keepsAlive = true
    this.#applyRef()
    return this
  }

  /** The process may end although the device is live; the device is removed then. */
  unref(): this {
    this.#keepsAlive = false
    this.#applyRef()
    return this
  }

  async #start(signal: AbortSignal | null, isRecovery = false): Promise<void> {
    if (this.#state !== 'dead') {
      throw new UblkError('ERR_UBLK_INVALID_STATE', {
        message: `device ${this.id} is ${this.#state}; only a dead device can start`,
        hint: this.#state === 'live' ? 'It is served already.' : 'Close it and create a new one.',
        deviceId: this.id,
      })
    }
    const starting = new AbortController()
    const forward = (): void => starting.abort(signal?.reason)
    if (signal?.aborted) forward()
    else signal?.addEventListener('abort', forward, { once: true })
    this.#starting = starting
    this.#failure = null
    this.#holdProcess()
    try {
      // From the first command of a recovery on to give up would end the device, or on old kernels more than that.
      const onPrepare = (): void => void (isRecovery && signal?.removeEventListener('abort', forward))
      await this.#startServing(starting.signal, onPrepare)
      this.#enter('live', 'start')
    } catch (error) {
      // What is stopped was never live: its own failure to stop would hide the reason.
      await this.#stopNative(() => this.#native.stop())
      await this.#server.finish()
      throw starting.signal.aborted ? abortError(starting.signal, `starting device ${this.id}`) : error
    } finally {
      signal?.removeEventListener('abort', forward)
      this.#starting = null
      this.#applyRef()
    }
  }

  async #startServing(signal: AbortSignal, onPrepare: () => void): Promise<void> {
    signal.throwIfAborted()
    const { id, path, size, logicalBlockSize: blockSize, readOnly, queues, depth, maxIoBytes } = this.#info
    const info: BackendInfo = { id, path, size, blockSize, readOnly, queues, depth, maxIoBytes, queue: null }
    await this.#server.start(this.#native, info, signal, {
      onPrepare,
      onFailure: (failure) => this.#tellFailure(failure),
      onDeath: (queue, error) => this.#failQueue(queue, error),
    })
    // START_DEV reads partitions: a handler that does not answer would hold it.
    const refuse = (): void => this.#server.refuse(abortError(signal, `starting device ${this.id}`))
    signal.addEventListener('abort', refuse, { once: true })
    signal.throwIfAborted()
    const started = await this.#native.start()
    await this.#findingReason
    if (started.error !== null) throw this.#failure ?? fromNative(started.error)
    signal.removeEventListener('abort', refuse)
    signal.throwIfAborted()
  }

  async #stop(): Promise<void> {
    if (this.#state !== 'live') return
    unwrap(await this.#stopNative(() => this.#native.stop()))
    await this.#server.finish()
    this.#enter('dead', 'stop')
    this.#applyRef()
  }

  async #quiesce(limitMs: number): Promise<void> {
    if (this.#state === 'quiesced' || this.#state === 'fail_io') return
    if (this.#state !== 'live') {
      throw new UblkError('ERR_UBLK_INVALID_STATE', {
        message: `device ${this.id} is ${this.#state}; only a live device can be quiesced`,
        hint: 'Check `state` before the call.',
        deviceId: this.id,
      })
    }
    unwrap(await this.#native.quiesce(limitMs))
    await this.#server.finish()
    untrack(this)
    this.#enter(this.#options.recovery === 'fail-io' ? 'fail_io' : 'quiesced', 'stop')
    this.#applyRef()
  }

  async #close(): Promise<void> {
    if (this.#state === 'closed') return
    const wasLive = this.#state === 'live'
    unwrap(await this.#stopNative(() => this.#native.close()))
    await this.#server.finish()
    untrack(this)
    this.#native.unref()
    this.#enter('closed', ...(wasLive ? (['stop', 'close'] as const) : (['close'] as const)))
  }

  async #stopNative(work: () => Promise<Outcome<null>>): Promise<Outcome<null>> {
    this.#holdProcess()
    this.#isStopping = true
    try {
      return await work()
    } finally {
      this.#isStopping = false
    }
  }

  /** It stopped serving although nobody here asked. */
  async #ended(): Promise<void> {
    if (this.#state !== 'live') return
    unwrap(await this.#native.stop())
    await this.#server.finish()
    const info = await this.#native.info()
    const mustGo = this.#failure !== null && this.#options.recovery === 'off'
    if (mustGo || info.error?.code === 'ERR_UBLK_NO_DEVICE') {
      await this.#close()
      return
    }
    this.#enter(unwrap(info).state, 'stop')
    this.#applyRef()
  }

  #hear(event: NativeEvent): void {
    switch (event.kind) {
      case 'request-timeout':
        queueMicrotask(() => this.emit('timeout', { queue: event.queue ?? 0 }))
        // Else stopping could take one deadline for each request still to come.
        if (this.#isStopping) this.#server.refuse(new Error('a handler missed its deadline while the device was stopped'))
        break
      case 'queue-stuck':
        this.#server.terminate(event.queue ?? 0, new Error(`a handler blocked it for more than ${this.#options.requestTimeoutMs} ms`))
        break
      case 'queue-failed':
        this.#findingReason = this.#queueFailed(event)
        break
      case 'warning':
        if (event.error !== null) this.#warn(fromNative(event.error))
        break
      case 'ended':
        this.#exclusive(() => this.#ended()).catch((error: UblkError) => this.#tell(error))
        break
    }
  }

  /** The native side notices first that a worker is gone; the worker's own end says why. */
  async #queueFailed({ queue, error }: NativeEvent): Promise<void> {
    if (this.#failure !== null || error === null) return
    this.#failure = fromNative(error)
    this.#failure = (await this.#server.whyGone(queue ?? 0)) ?? this.#failure
    if (this.#state !== 'dead') this.#tell(this.#failure)
  }

  #failQueue(queue: number, error: UblkError): void {
    this.#fail(error)
    this.#native.failQueue(queue, error.message)
  }

  #fail(error: UblkError): void {
    if (this.#failure !== null) return
    this.#failure = error
    if (this.#state === 'live') this.#tell(error)
  }

  #tellFailure({ message, cause }: HandlerFailure): void {
    this.#tell(new UblkError('ERR_UBLK_BACKEND', { message, deviceId: this.id, cause }))
  }

  /** Never from within the drain loop: a listener may throw. */
  #tell(error: UblkError): void {
    queueMicrotask(() => {
      if (this.listenerCount('error') > 0) this.emit('error', error)
    })
  }

  /** It may come while the device starts, before there is anything to listen to. */
  #warn(warning: UblkError): void {
    if (this.listenerCount('warning') > 0) this.#emitLater(warning)
    else this.#unheard = [...this.#unheard, warning].slice(-MOST_UNHEARD)
  }

  #emitLater(warning: UblkError): void {
    queueMicrotask(() => this.emit('warning', warning))
  }

  #enter(state: DeviceState, ...events: readonly ('start' | 'stop' | 'close')[]): void {
    this.#state = state
    for (const check of this.#waiters) check()
    for (const event of events) queueMicrotask(() => this.emit(event))
  }

  #giveUpHandlersOnAbort(work: Promise<void>, signal: AbortSignal | null, what: string): Promise<void> {
    return abortable(work, signal, `${what} device ${this.id}`, (reason) => this.#server.refuse(reason))
  }

  #exclusive(job: () => Promise<void>): Promise<void> {
    const result = this.#last.then(job)
    this.#last = result.catch(() => {})
    return result
  }

  #applyRef(): void {
    if (this.#keepsAlive && this.#state === 'live') {
      this.#holdProcess()
    } else {
      this.#native.unref()
      this.#server.unref()
    }
  }

  #holdProcess(): void {
    this.#native.ref()
    this.#server.ref()
  }
}

/**
 * Serves a device whose server is gone (`quiesced` or `fail_io`), whichever process and program made it: resolves when it is live again.
 * Size, queues and all else stay as they are; `backend` must have the same bytes. A failure leaves it to the next server, and so does an abort,
 * unless it comes too late: once the driver has heard of the recovery, that goes on, and the call resolves.
 * @param id N of /dev/ublkbN
 * @throws `ERR_UBLK_INVALID_STATE` for a device that is live, dead or made without `recovery`; `ERR_UBLK_NO_DEVICE`; `ERR_UBLK_BUSY` when
 *   its former server does not end within ten seconds; and what `createDevice` throws for its backend
 */
export async function recoverDevice(id: number, options: RecoverOptions): Promise<Device> {
  return Device.recoverLive(id, options)
}

/** Adds and starts a device: resolves when the block device is live. A failure or an abort leaves nothing behind. */
export async function createDevice(options: DeviceOptions): Promise<Device> {
  return Device.createLive(options)
}
