/**
 * The owner's view of one worker: start it, hear what its module can do, have it opened, let it serve, notice its death.
 *
 * Thread: the device's. Whatever happens to the worker, every promise here settles: its `exit` event is the last word.
 */

import { extname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { type Deferred, deferred } from './abort.ts'
import type { Abilities, BackendInfo } from './backend.ts'
import { fromNative, UblkError } from './errors.ts'
import { type FromWorker, fromPlainError, type PlainError, type ServeMessage, type ToWorker, type WorkerInit } from './messages.ts'
import type { HandlerFailure } from './ring.ts'

/** What the owner of a worker is told while nobody waits for it. */
export interface WorkerListener {
  onFailure: (failure: HandlerFailure) => void
  /** The worker died while it served. */
  onDeath: (error: UblkError) => void
}

/** How far a worker has come. */
type Phase = 'loading' | 'opening' | 'open' | 'starting' | 'serving'

/** Beside this file, with its ending: src/*.ts under type stripping, dist/*.js when built. */
const ENTRY: URL = new URL(`./worker-thread${extname(import.meta.url)}`, import.meta.url)

/** A worker inherits the arguments of `node`; one started from a file refuses those of `node --input-type=module -e …`. */
const EXEC_ARGV: { execArgv?: string[] } = process.execArgv.some((argument) => argument.startsWith('--input-type')) ? { execArgv: [] } : {}

/** How long a worker may be busy with other things before it hears that it shall refuse requests. */
const REFUSE_LIMIT_MS = 300

export class QueueWorker {
  /** What the module can do; rejects with `ERR_UBLK_BACKEND` when it cannot be loaded. */
  readonly loaded: Promise<Abilities>
  /** The thread is gone. Never rejects. */
  readonly exited: Promise<void>
  readonly #worker: Worker
  readonly #url: string
  readonly #queue: number
  readonly #loaded: Deferred<Abilities> = deferred<Abilities>()
  readonly #opened: Deferred<void> = deferred<void>()
  readonly #serving: Deferred<void> = deferred<void>()
  #listener: WorkerListener | null = null
  /** Runs while the worker has not confirmed that it refuses requests. */
  #refusal: NodeJS.Timeout | null = null
  /** Why it ended, as far as known. */
  #failure: Error | null = null
  #death: UblkError | null = null
  #phase: Phase | 'over' = 'loading'

  constructor(init: WorkerInit, queue: number) {
    this.#url = init.url
    this.#queue = queue
    this.loaded = this.#loaded.promise
    this.#worker = new Worker(ENTRY, { workerData: init, name: `ublk queue ${queue}`, ...EXEC_ARGV })
    this.#worker.on('message', (message: FromWorker) => this.#hear(message))
    this.#worker.on('error', (error) => {
      this.#failure ??= error
    })
    this.exited = new Promise((resolve) => {
      this.#worker.on('exit', (code) => {
        if (this.#refusal !== null) clearTimeout(this.#refusal)
        this.#over(this.#failure ?? new Error(`the thread ended with exit code ${code}`))
        resolve()
      })
    })
  }

  /** Opens the backend for the queue that it will serve. */
  open(info: BackendInfo, listener: WorkerListener): Promise<void> {
    this.#listener = listener
    if (this.#phase === 'loading') this.#phase = 'opening'
    this.#send({ type: 'open', info })
    return this.#opened.promise
  }

  /** Serves the queue; resolves when every tag is fetched. */
  serve(message: ServeMessage): Promise<void> {
    if (this.#phase === 'open') this.#phase = 'starting'
    this.#send(message)
    return this.#serving.promise
  }

  /** Ends the thread, unless its queue's end does. A backend that is open and serves nothing is closed. */
  leave(): void {
    if (this.#phase === 'open') {
      this.#phase = 'over'
      this.#send({ type: 'close' })
    } else if (!this.endsByItself) void this.terminate()
  }

  /** Why it died while it served; null while it lives, and when it ended in order. */
  get death(): UblkError | null {
    return this.#death
  }

  /** Its queue's end makes it end. */
  get endsByItself(): boolean {
    return this.#phase === 'serving' || this.#phase === 'over'
  }

  /** Answers every request EIO. A worker that does not hear it is stuck in a handler, and ended: an addon hook answers for it. */
  refuse(reason: string): void {
    this.#send({ type: 'refuse', reason })
    this.#refusal ??= setTimeout(() => void this.terminate(), REFUSE_LIMIT_MS)
  }

  /** Ends the thread, whatever it does. Resolves when it is gone. `reason` is what its death is told with. */
  async terminate(reason: Error | null = null): Promise<void> {
    this.#failure ??= reason
    await this.#worker.terminate()
  }

  ref(): void {
    this.#worker.ref()
  }

  unref(): void {
    this.#worker.unref()
  }

  #send(message: ToWorker): void {
    this.#worker.postMessage(message)
  }

  #hear(message: FromWorker): void {
    switch (message.type) {
      case 'refusing':
        if (this.#refusal !== null) clearTimeout(this.#refusal)
        break
      case 'loaded':
        this.#loaded.resolve(message.abilities)
        break
      case 'opened':
        if (this.#phase === 'opening') this.#phase = 'open'
        this.#opened.resolve()
        break
      case 'serving':
        this.#phase = 'serving'
        this.#serving.resolve()
        break
      case 'report':
        this.#listener?.onFailure({ message: message.message, cause: message.cause === null ? undefined : fromPlainError(message.cause) })
        break
      case 'failed':
        this.#over(toError(message.error))
        void this.#worker.terminate()
        break
      case 'ended':
        this.#phase = 'over'
        if (message.error !== null)
          this.#listener?.onFailure({ message: `backend: close failed: ${message.error.message}`, cause: fromPlainError(message.error) })
        // It did all it had to; timers and sockets of the backend shall not keep it.
        void this.#worker.terminate()
        break
    }
  }

  /** Tells whoever waits, once. */
  #over(cause: Error): void {
    const phase = this.#phase
    if (phase === 'over') return
    this.#phase = 'over'
    const error = cause instanceof UblkError ? cause : this.#backendError(phase, cause)
    this.#loaded.reject(error)
    this.#opened.reject(error)
    this.#serving.reject(error)
    if (phase !== 'serving') return
    this.#death = error
    this.#listener?.onDeath(error)
  }

  #backendError(phase: Phase, cause: Error): UblkError {
    const notStarted = `the backend of queue ${this.#queue} did not start`
    const what = {
      loading: `the backend module ${this.#url} cannot be loaded`,
      opening: notStarted,
      open: notStarted,
      starting: notStarted,
      serving: `the worker of queue ${this.#queue} died`,
    }[phase]
    return new UblkError('ERR_UBLK_BACKEND', {
      message: `${what}: ${cause.message}`,
      hint: phase === 'loading' ? loadHint(cause, this.#url) : '',
      cause,
    })
  }
}

function toError(error: PlainError): Error {
  return error.native === null ? fromPlainError(error) : fromNative(error.native)
}

/** The places in files that a stack trace names, the innermost first. */
const PLACES = /file:\/\/\S+?:\d+(?::\d+)?(?=\)?$)/gm
const OWN_PLACE = new URL('.', import.meta.url).href

function loadHint(cause: Error, url: string): string {
  // Node tells where a module is not JavaScript only on its standard error.
  if (cause.name === 'SyntaxError' && url.startsWith('file:')) return `\`node ${fileURLToPath(url)}\` shows the line.`
  switch ((cause as { code?: string }).code) {
    case 'EACCES':
    case 'EPERM':
      return 'Check the rights of the module and of the folders above it.'
    case 'ERR_MODULE_NOT_FOUND':
      return 'Check the path of the module, and of what it imports.'
    case 'ERR_UNKNOWN_FILE_EXTENSION':
      return 'Node.js 22.18 and later run TypeScript as it is; with an earlier one build it to JavaScript first.'
  }
  const place = cause.stack?.match(PLACES)?.find((found) => !found.startsWith(OWN_PLACE))
  return place === undefined ? 'Its default export must be a backend, or a function that returns one.' : `Thrown at ${place}.`
}
