/**
 * The three ways to serve a device, behind one interface: natively, by a backend on this thread, by a backend in workers.
 *
 * Thread: the device's. A server is started at most once at a time; `start` after `finish` starts it anew, with fresh memory.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { abortable } from './abort.ts'
import { type Abilities, abilitiesOf, type Backend, type BackendInfo } from './backend.ts'
import { messageOf, UblkError, unwrap } from './errors.ts'
import { allocateQueueMemory } from './layout.ts'
import { MainQueue } from './main-queue.ts'
import type { DeviceSpec, NativeBinding, NativeDevice, QueueMemory } from './native.ts'
import { backendDeviceSpec, type CheckedOptions, targetDeviceSpec } from './options.ts'
import { QueueWorker } from './queue-worker.ts'
import type { HandlerFailure } from './ring.ts'
import { NativeTarget, WorkerBackend } from './targets.ts'

/** What a server tells its device. */
export interface ServerListener {
  /** The backend is open; the driver hears of it next. */
  onPrepare(): void
  onFailure(failure: HandlerFailure): void
  /** The JavaScript side of a queue is gone. */
  onDeath(queue: number, error: UblkError): void
}

export interface Server {
  /** Prepares the queues: every tag is fetched, or will be without further calls, when it resolves. An abort is not waited for. */
  start(device: NativeDevice, info: BackendInfo, signal: AbortSignal, listener: ServerListener): Promise<void>
  /** Answers every request EIO from now on, without the backend. */
  refuse(reason: Error): void
  /** Ends the JavaScript side of one queue by force. */
  terminate(queue: number, reason: Error): void
  /** Why the JavaScript side of a failed queue is gone, if it is: known a little after the native side noticed. Never rejects. */
  whyGone(queue: number): Promise<UblkError | null>
  /** After the native side has stopped: closes the backend. Never rejects. */
  finish(): Promise<void>
  ref(): void
  unref(): void
}

/** A native target: there is no JavaScript to run, and the native side starts its own queues. */
export class NativeServer implements Server {
  async start(): Promise<void> {}
  refuse(): void {}
  terminate(): void {}
  async whyGone(): Promise<null> {
    return null
  }
  async finish(): Promise<void> {}
  ref(): void {}
  unref(): void {}
}

/** A backend object on the device's thread, for all queues. */
export class MainServer implements Server {
  readonly abilities: Abilities
  readonly #backend: Backend
  readonly #binding: NativeBinding
  #queues: MainQueue[] = []
  #opened = false
  #listener: ServerListener | null = null

  constructor(backend: Backend, binding: NativeBinding) {
    this.abilities = abilitiesOf(backend)
    this.#backend = backend
    this.#binding = binding
  }

  async start(device: NativeDevice, info: BackendInfo, signal: AbortSignal, listener: ServerListener): Promise<void> {
    this.#listener = listener
    await this.#open(info, signal)
    const { depth, maxIoBytes } = info
    const memories = allocateMemories(info)
    this.#queues = memories.map((memory, queue) => {
      const { copy } = this.#binding
      const onFailure = (failure: HandlerFailure) => listener.onFailure(failure)
      return new MainQueue({ backend: this.#backend, memory, queue, depth, maxIoBytes, copy, onFailure }, device.kicker(queue))
    })
    listener.onPrepare()
    unwrap(await device.prepare('main', memories, (queue) => this.#queues[queue]?.wake()))
  }

  refuse(reason: Error): void {
    for (const queue of this.#queues) queue.refuse(reason)
  }

  terminate(): void {}

  async whyGone(): Promise<null> {
    return null
  }

  async finish(): Promise<void> {
    this.refuse(new Error('the device has stopped'))
    if (!this.#opened) return
    this.#opened = false
    try {
      await this.#backend.close?.()
    } catch (cause) {
      this.#listener?.onFailure({ message: `backend: close failed: ${messageOf(cause)}`, cause })
    }
  }

  ref(): void {}
  unref(): void {}

  async #open(info: BackendInfo, signal: AbortSignal): Promise<void> {
    // Also when the wait for it is given up: what it opened by then must be closed.
    this.#opened = true
    try {
      await abortable(Promise.resolve(this.#backend.open?.(info)), signal, 'opening the backend')
    } catch (cause) {
      if (signal.aborted) throw cause
      this.#opened = false
      const message = `the backend did not open: ${messageOf(cause)}`
      throw new UblkError('ERR_UBLK_BACKEND', { message, deviceId: info.id, cause })
    }
  }
}

/** How long a worker has to close its backend after its queue ended, before it is terminated. */
const CLOSE_LIMIT_MS = 2000
/** How long a worker whose queue failed may take to be gone; one that lives on failed for a native reason. */
const EXIT_LIMIT_MS = 5000

/** A backend module, one worker per queue. */
export class WorkerServer implements Server {
  readonly #backend: WorkerBackend
  readonly #workers: QueueWorker[] = []

  constructor(backend: WorkerBackend) {
    this.#backend = backend
  }

  /** Loads the module in the worker of queue 0, which stays for the first start. */
  load(): Promise<Abilities> {
    return this.#worker(0).loaded
  }

  async start(device: NativeDevice, info: BackendInfo, signal: AbortSignal, listener: ServerListener): Promise<void> {
    const memories = allocateMemories(info)
    const workers = memories.map((_, queue) => this.#worker(queue))
    const what = 'starting the workers'
    await abortable(Promise.all(workers.map((worker) => worker.loaded)), signal, what)
    // From `prepare` on the driver waits for the queues of a device that is recovered: a backend that takes long, or fails, must have done so.
    const opened = workers.map((worker, queue) =>
      worker.open(
        { ...info, queue },
        { onFailure: (failure) => listener.onFailure(failure), onDeath: (error) => listener.onDeath(queue, error) },
      ),
    )
    await abortable(Promise.all(opened), signal, what)
    listener.onPrepare()
    unwrap(await device.prepare('worker', memories, null))
    const { key } = device
    const { depth, maxIoBytes } = info
    const starts = workers.map((worker, queue) =>
      worker.serve({ type: 'serve', key, queue, depth, maxIoBytes, ...(memories[queue] as QueueMemory) }),
    )
    try {
      await abortable(Promise.all(starts), signal, what)
    } catch (error) {
      // First the native side, which wakes workers that wait in their rings: those cannot be terminated, and nobody else would tell it
      // that the others will not come.
      for (const queue of workers.keys()) device.failQueue(queue, messageOf(error))
      await Promise.all(workers.filter((worker) => !worker.endsByItself).map((worker) => worker.terminate()))
      throw error
    }
  }

  refuse(reason: Error): void {
    for (const worker of this.#workers) worker?.refuse(reason.message)
  }

  terminate(queue: number, reason: Error): void {
    void this.#workers[queue]?.terminate(reason)
  }

  async whyGone(queue: number): Promise<UblkError | null> {
    const worker = this.#workers[queue]
    if (worker === undefined) return null
    await Promise.race([worker.exited, delay(EXIT_LIMIT_MS, undefined, { ref: false })])
    return worker.death
  }

  async finish(): Promise<void> {
    const workers = this.#workers.splice(0).filter((worker) => worker !== undefined)
    const limit = setTimeout(() => workers.forEach((worker) => void worker.terminate()), CLOSE_LIMIT_MS)
    for (const worker of workers) worker.leave()
    await Promise.all(workers.map((worker) => worker.exited))
    clearTimeout(limit)
  }

  ref(): void {
    for (const worker of this.#workers) worker?.ref()
  }

  unref(): void {
    for (const worker of this.#workers) worker?.unref()
  }

  #worker(queue: number): QueueWorker {
    const { url, options } = this.#backend
    this.#workers[queue] ??= new QueueWorker({ url, options }, queue)
    return this.#workers[queue]
  }
}

function allocateMemories({ queues, depth, maxIoBytes }: BackendInfo): QueueMemory[] {
  return Array.from({ length: queues }, () => allocateQueueMemory(depth, maxIoBytes))
}

/** The server for a backend, and the native description of its device. Loads the module if it is one. */
export async function makeServer(options: CheckedOptions, binding: NativeBinding): Promise<{ server: Server; spec: DeviceSpec }> {
  const { backend, signal } = options
  if (backend instanceof NativeTarget) return { server: new NativeServer(), spec: targetDeviceSpec(options, backend.spec) }
  if (!(backend instanceof WorkerBackend)) {
    const server = new MainServer(backend, binding)
    return { server, spec: backendDeviceSpec(options, server.abilities) }
  }
  const server = new WorkerServer(backend)
  try {
    return { server, spec: backendDeviceSpec(options, await abortable(server.load(), signal, 'loading the backend module')) }
  } catch (error) {
    await server.finish()
    throw error
  }
}
