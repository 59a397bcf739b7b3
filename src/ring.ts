/**
 * The JavaScript half of the boundary: takes requests out of the control block, calls the backend, publishes the answers.
 *
 * Thread: the one that runs the backend. Every request gets exactly one completion, whatever its handler does; the answer of a handler
 * that native no longer waits for is dropped. Nothing is allocated for a request whose handler answers at once.
 */
import type { Backend } from './backend.ts'
import { errnoOf, messageOf } from './errors.ts'
import * as layout from './layout.ts'
import type { QueueMemory } from './native.ts'
import { TagRequest } from './request.ts'
import { type CopyFunction, type SharedViewClass, sharedViewClass } from './shared-view.ts'

/** A handler threw, rejected, or answered what it may not. */
export interface HandlerFailure {
  /** What happened, as a sentence. */
  message: string
  /** What was thrown, if something was. */
  cause: unknown
}

/** What a ring needs to know. */
export interface RingOptions {
  backend: Backend
  memory: QueueMemory
  queue: number
  depth: number
  maxIoBytes: number
  copy: CopyFunction
  /** Handlers never return promises: one that does is an error. */
  sync: boolean
  /** Completions were published outside `drain`. */
  onPublish: () => void
  /** At most once a second. */
  onFailure: (failure: HandlerFailure) => void
}

/** A drain ends after so many requests or so long, so that timers and sockets get their turn. */
const BUDGET_REQUESTS = 1024
const BUDGET_MS = 2
/** Reading the clock costs as much as a small request. */
const REQUESTS_PER_CLOCK_READ = 32

const FAILURE_INTERVAL_MS = 1000
const EIO = errnoOf(null)
const MAX_ERRNO = 4095
const RESOLVED: Promise<void> = Promise.resolve()
const { then } = Promise.prototype

/** What the ring knows of the request that a tag holds. Replaced when native gave the tag to a new request before the old handler answered. */
class OpenRequest {
  readonly request: TagRequest
  key = 0
  /** What the running handler has to do: the length, or 0 while it flushes. */
  expected = 0
  /** Part of `expected` is an answer too. */
  mayBePartial = false
  /** `flush` follows the write. */
  flushAfterwards = false
  /** Bytes of the write that the flush follows. */
  written = 0
  /** A promise of the handler is open. */
  pending = false
  /** Native no longer waits for this request. */
  abandoned = false
  view: Buffer | null = null
  viewSlot = -1
  // Made once, so that awaiting a promise allocates no closures.
  readonly onResolved: (result: unknown) => void
  readonly onRejected: (error: unknown) => void

  constructor(
    request: TagRequest,
    onResolved: (open: OpenRequest, result: unknown) => void,
    onRejected: (open: OpenRequest, error: unknown) => void,
  ) {
    this.request = request
    this.onResolved = (result) => onResolved(this, result)
    this.onRejected = (error) => onRejected(this, error)
  }
}

/** One queue's requests and completions. */
export class Ring {
  readonly #options: RingOptions
  readonly #backend: Backend
  readonly #control: Int32Array
  readonly #slab: SharedArrayBuffer
  readonly #View: SharedViewClass
  readonly #indexMask: number
  readonly #completionsAt: number
  readonly #libraryFlushes: boolean
  readonly #open: OpenRequest[] = []
  #requestTail: number
  #completionHead: number
  #publishedHead: number
  #publishScheduled = false
  #refusal: Error | null = null
  #lastFailureMs = Number.NEGATIVE_INFINITY
  #failuresNotTold = 0

  constructor(options: RingOptions) {
    this.#options = options
    this.#backend = options.backend
    const { control, slab } = options.memory
    this.#control = new Int32Array(control.buffer)
    this.#requestTail = Atomics.load(this.#control, layout.REQUEST_TAIL)
    this.#completionHead = Atomics.load(this.#control, layout.COMPLETION_HEAD)
    this.#publishedHead = this.#completionHead
    this.#slab = slab.buffer as SharedArrayBuffer
    this.#View = sharedViewClass(options.copy)
    this.#indexMask = layout.ringCapacity(options.depth) - 1
    this.#completionsAt = layout.completionsAt(options.depth)
    this.#libraryFlushes = options.backend.flush !== undefined && options.backend.supports?.fua !== 'native'
    for (let tag = 0; tag < options.depth; tag++) this.#open.push(this.#makeOpenRequest(tag))
  }

  /** Whether a request waits to be taken. */
  get hasRequests(): boolean {
    return Atomics.load(this.#control, layout.REQUEST_HEAD) !== this.#requestTail
  }

  /**
   * Serves what waits, within a budget, then publishes the answers.
   * @returns completions published; `hasRequests` tells whether the budget left something
   */
  drain(): number {
    const control = this.#control
    const head = Atomics.load(control, layout.REQUEST_HEAD)
    let tail = this.#requestTail
    let deadlineMs = 0
    // A batch that ends before the second look needs no clock: with one request at a time, reading it is a tenth of the price.
    const isLong = ((head - tail) | 0) > REQUESTS_PER_CLOCK_READ
    for (let served = 0; tail !== head && served < BUDGET_REQUESTS; served++) {
      if (served % REQUESTS_PER_CLOCK_READ === 0 && isLong) {
        const nowMs = performance.now()
        if (served === 0) deadlineMs = nowMs + BUDGET_MS
        else if (nowMs > deadlineMs) break
      }
      this.#serve(layout.REQUESTS + (tail & this.#indexMask) * layout.REQUEST_WORDS)
      tail = (tail + 1) | 0
    }
    this.#requestTail = tail
    Atomics.store(control, layout.REQUEST_TAIL, tail)
    return this.#publish()
  }

  /** From now on every request, open or new, is answered EIO without its handler; signals of open ones abort. */
  refuse(reason: Error): void {
    if (this.#refusal !== null) return
    this.#refusal = reason
    // Handlers go on: no other request's data may come into the slots that they hold.
    Atomics.store(this.#control, layout.JS_REFUSES, 1)
    for (const open of this.#open) {
      if (!open.pending) continue
      this.#open[open.request.tag] = this.#abandon(open, reason)
      this.#pushCompletion(open.key, EIO)
    }
    if (this.#publish() > 0) this.#options.onPublish()
  }

  #makeOpenRequest(tag: number): OpenRequest {
    const request = new TagRequest(this.#options.queue, tag)
    return new OpenRequest(request, this.#resolved, this.#rejected)
  }

  #serve(at: number): void {
    const control = this.#control
    const key = control[at + layout.REQUEST_KEY] as number
    let open = this.#open[key & layout.TAG_MASK] as OpenRequest
    if (((control[at + layout.REQUEST_OP] as number) & layout.OP_MASK) === layout.OP_EXPIRED) {
      this.#expire(open, key)
      return
    }
    if (open.pending) {
      open = this.#abandon(open, new Error('the request is past its deadline'))
      this.#open[key & layout.TAG_MASK] = open
    }
    open.key = key
    if (this.#refusal !== null) {
      this.#pushCompletion(key, EIO)
      return
    }
    try {
      this.#settle(open, this.#call(open, at))
    } catch (error) {
      this.#fail(open, error)
    }
  }

  /** Native answered ETIMEDOUT: the handler, if it still runs, keeps its own object and buffer. */
  #expire(open: OpenRequest, key: number): void {
    if (!open.pending || open.key !== key) return
    this.#open[key & layout.TAG_MASK] = this.#abandon(open, new Error('the request is past its deadline'))
  }

  /** Fills in the request object and calls the handler of its operation. */
  #call(open: OpenRequest, at: number): unknown {
    const control = this.#control
    const backend = this.#backend
    const request = open.request
    const opFlags = control[at + layout.REQUEST_OP] as number
    const length = (control[at + layout.REQUEST_LENGTH] as number) >>> 0
    const sectorLow = (control[at + layout.REQUEST_SECTOR_LOW] as number) >>> 0
    const sectorHigh = (control[at + layout.REQUEST_SECTOR_HIGH] as number) >>> 0
    const offset = (sectorHigh * 2 ** 32 + sectorLow) * layout.SECTOR_BYTES
    request.offset = offset
    request.length = length
    request.fua = false
    open.expected = length
    open.mayBePartial = false
    open.flushAfterwards = false
    open.written = 0
    switch (opFlags & layout.OP_MASK) {
      case layout.OP_READ:
        request.op = 'read'
        open.mayBePartial = true
        return backend.read(this.#attach(open, control[at + layout.REQUEST_SLOT] as number, length), offset, request)
      case layout.OP_WRITE:
        if (backend.write === undefined) return -ABSENT
        request.op = 'write'
        request.fua = (opFlags & layout.FLAG_FUA) !== 0
        open.mayBePartial = true
        open.flushAfterwards = request.fua && this.#libraryFlushes
        return backend.write(this.#attach(open, control[at + layout.REQUEST_SLOT] as number, length), offset, request)
      case layout.OP_FLUSH:
        request.op = 'flush'
        return backend.flush === undefined ? 0 : backend.flush(request)
      case layout.OP_DISCARD:
        request.op = 'discard'
        return backend.discard === undefined ? -ABSENT : backend.discard(offset, length, request)
      case layout.OP_WRITE_ZEROES:
        request.op = 'writeZeroes'
        return backend.writeZeroes === undefined ? -ABSENT : backend.writeZeroes(offset, length, request)
      default:
        return -ABSENT
    }
  }

  /** The tag's view of its data, made again only when slot or length change. */
  #attach(open: OpenRequest, slot: number, length: number): Buffer {
    let view = open.view
    if (view === null || open.viewSlot !== slot || view.length !== length) {
      const base = this.#control[layout.SLAB_BASE] as number
      view = new this.#View(this.#slab, base + slot * this.#options.maxIoBytes, length)
      open.view = view
      open.viewSlot = slot
    }
    open.request.attach(view)
    return view
  }

  /** Takes what a handler returned, or what its promise resolved to. */
  #settle(open: OpenRequest, result: unknown): void {
    if (result === undefined) this.#finish(open, open.expected)
    else if (typeof result === 'number' && isAnswer(result, open)) this.#finish(open, result)
    else if (isThenable(result)) this.#await(open, result)
    else this.#reject(open, `returned ${messageOf(result)}; ${rule(open)}`, undefined, EIO)
  }

  #await(open: OpenRequest, promise: PromiseLike<unknown>): void {
    if (this.#options.sync) {
      promise.then(undefined, () => {}) // its rejection is nobody's: the request fails already
      this.#reject(open, 'returned a promise, but the backend says sync: true', undefined, EIO)
      return
    }
    open.pending = true
    // A promise settles once; what merely has a then method must be made one first.
    then.call(promise instanceof Promise ? promise : Promise.resolve(promise), open.onResolved, open.onRejected)
  }

  readonly #resolved = (open: OpenRequest, result: unknown): void => {
    if (open.abandoned) {
      this.#letGo(open)
      return
    }
    try {
      this.#settle(open, result)
    } catch (error) {
      this.#fail(open, error)
    }
    this.#schedulePublish()
  }

  readonly #rejected = (open: OpenRequest, error: unknown): void => {
    if (open.abandoned) {
      this.#letGo(open)
      return
    }
    this.#fail(open, error)
    this.#schedulePublish()
  }

  /** The handler did its part: flush after a FUA write, or answer. */
  #finish(open: OpenRequest, result: number): void {
    if (open.flushAfterwards && result > 0) {
      open.flushAfterwards = false
      open.written = result
      open.expected = 0
      open.mayBePartial = false
      this.#settle(open, this.#backend.flush?.(open.request))
      return
    }
    this.#complete(open, result === 0 ? open.written : result)
  }

  #fail(open: OpenRequest, error: unknown): void {
    this.#reject(open, `failed: ${messageOf(error)}`, error, errnoOf(error))
  }

  #reject(open: OpenRequest, what: string, cause: unknown, errno: number): void {
    this.#complete(open, errno)
    this.#tell(open.request, what, cause)
  }

  #complete(open: OpenRequest, result: number): void {
    open.pending = false
    open.request.end()
    this.#pushCompletion(open.key, result)
  }

  #pushCompletion(key: number, result: number): void {
    const at = this.#completionsAt + (this.#completionHead & this.#indexMask) * layout.COMPLETION_WORDS
    this.#control[at + layout.COMPLETION_KEY] = key
    this.#control[at + layout.COMPLETION_RESULT] = result
    this.#completionHead = (this.#completionHead + 1) | 0
  }

  #publish(): number {
    const published = (this.#completionHead - this.#publishedHead) | 0
    this.#publishedHead = this.#completionHead
    if (published > 0) Atomics.store(this.#control, layout.COMPLETION_HEAD, this.#completionHead)
    return published
  }

  /** One microtask publishes all that settle in this turn. */
  #schedulePublish(): void {
    if (this.#publishScheduled) return
    this.#publishScheduled = true
    then.call(RESOLVED, this.#publishLater)
  }

  readonly #publishLater = (): void => {
    this.#publishScheduled = false
    if (this.#publish() > 0) this.#options.onPublish()
  }

  /** An abandoned handler is done. Its completion answers nothing: it tells native that the slot is free again. */
  #letGo(open: OpenRequest): void {
    if (this.#refusal !== null) return
    this.#pushCompletion(open.key, 0)
    this.#schedulePublish()
  }

  /** Gives the tag of `open` a fresh object; a late answer of the old one changes nothing. */
  #abandon(open: OpenRequest, reason: Error): OpenRequest {
    open.abandoned = true
    open.request.abort(reason)
    return this.#makeOpenRequest(open.request.tag)
  }

  #tell(request: TagRequest, what: string, cause: unknown): void {
    const nowMs = performance.now()
    if (nowMs - this.#lastFailureMs < FAILURE_INTERVAL_MS) {
      this.#failuresNotTold++
      return
    }
    const more = this.#failuresNotTold === 0 ? '' : ` (and ${this.#failuresNotTold} more since the last report)`
    this.#lastFailureMs = nowMs
    this.#failuresNotTold = 0
    this.#options.onFailure({ message: `backend: ${describe(request)} ${what}${more}`, cause })
  }
}

/** The kernel asked for what the device never offered. */
const ABSENT = 95 // EOPNOTSUPP

function isAnswer(result: number, { expected, mayBePartial }: OpenRequest): boolean {
  if (result === expected) return true
  if (!Number.isInteger(result) || result < -MAX_ERRNO) return false
  return result < 0 || (mayBePartial && result > 0 && result < expected)
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
}

function rule({ expected, mayBePartial }: OpenRequest): string {
  const bytes = mayBePartial ? `the bytes done, 1 to ${expected}` : `${expected}`
  return `a handler returns nothing when all is done, or ${bytes}, or a negative errno`
}

function describe({ op, offset, length }: TagRequest): string {
  return op === 'flush' ? 'flush' : `${op} of ${length} bytes at ${offset}`
}
