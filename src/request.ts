/**
 * What a backend's handler learns about the request it serves: one object per tag, reused.
 *
 * Thread: the one that runs the backend.
 */
import { outOfRange } from './errors.ts'
import { zero } from './shared-view.ts'

/** Operations that the kernel can ask for. */
export type OperationName = 'read' | 'write' | 'flush' | 'discard' | 'writeZeroes'

/**
 * One request. The object belongs to a tag and is reused: read it while the request is open (until the handler
 * returns, or until its promise settles), and do not keep it.
 */
export interface BlockRequest {
  readonly op: OperationName
  /** Place on the device in bytes; 0 for a flush. */
  readonly offset: number
  /** Bytes asked for; 0 for a flush. */
  readonly length: number
  /** This write must be durable when it completes (REQ_FUA). Without `supports.fua: 'native'` the library calls `flush` itself. */
  readonly fua: boolean
  readonly queue: number
  /** Slot of the request in its queue, 0 to depth - 1. */
  readonly tag: number
  /** Aborts when nobody waits for the answer any more: past its deadline, or the device failed. Made on first use. */
  readonly signal: AbortSignal
  /** Fills the data of a read with zeros. */
  zeroFill(): void
  /**
   * Copies the whole data of the request to `target`; the same as `buf.copy`, but nothing is cut off.
   * @param targetOffset where in `target`; default 0
   * @returns bytes copied, always `length`
   * @throws RangeError if `target` has fewer than `length` bytes there
   */
  copyTo(target: Uint8Array, targetOffset?: number): number
}

const NO_DATA: Buffer = Buffer.alloc(0)

/** The request object of one tag. The ring fills it in before each call of a handler. */
export class TagRequest implements BlockRequest {
  op: OperationName = 'flush'
  offset = 0
  length = 0
  fua = false
  readonly queue: number
  readonly tag: number
  #data: Buffer = NO_DATA
  #controller: AbortController | null = null

  constructor(queue: number, tag: number) {
    this.queue = queue
    this.tag = tag
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController()
    return this.#controller.signal
  }

  zeroFill(): void {
    zero(this.#data)
  }

  copyTo(target: Uint8Array, targetOffset = 0): number {
    const length = this.#data.length
    if (!Number.isInteger(targetOffset) || targetOffset < 0 || targetOffset + length > target.length) {
      throw outOfRange('targetOffset', `a place in the target with room for ${length} of its ${target.length} bytes`, targetOffset)
    }
    return this.#data.copy(target, targetOffset)
  }

  /** Hands over the data of a read or write. @internal */
  attach(data: Buffer): void {
    this.#data = data
  }

  /** The request is answered: a signal made for it never aborts. @internal */
  end(): void {
    this.#controller = null
  }

  /** Nobody waits any more. @internal */
  abort(reason: Error): void {
    this.#controller?.abort(reason)
  }
}
