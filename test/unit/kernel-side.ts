/**
 * The native side of one queue's control block, for tests: publishes requests and takes completions by the real layout.
 */
import * as layout from '../../src/layout.ts'
import type { QueueMemory } from '../../src/native.ts'

export interface Completion {
  tag: number
  generation: number
  result: number
}

export interface WantedRequest {
  tag: number
  op: number
  generation?: number
  length?: number
  sector?: number
  fua?: boolean
  slot?: number
}

/** Copy as the addon does it, without the addon. */
export const copy = (target: Uint8Array, targetOffset: number, source: Uint8Array, sourceOffset: number, length: number): void => {
  Buffer.from(source.buffer, source.byteOffset, source.byteLength).copy(target, targetOffset, sourceOffset, sourceOffset + length)
}

export class KernelSide {
  readonly memory: QueueMemory
  readonly control: Int32Array
  readonly depth: number
  readonly maxIoBytes: number
  #requestHead: number
  #completionTail: number
  readonly #mask: number

  /** @param start first value of the free-running indexes, so that tests can pass 2^31 */
  constructor(depth: number, maxIoBytes = 4096, start = 0) {
    this.depth = depth
    this.maxIoBytes = maxIoBytes
    this.memory = layout.allocateQueueMemory(depth, maxIoBytes)
    this.control = new Int32Array(this.memory.control.buffer)
    this.control[layout.SLAB_BASE] = 512
    this.#requestHead = start
    this.#completionTail = start
    this.#mask = layout.ringCapacity(depth) - 1
    for (const word of [layout.REQUEST_HEAD, layout.REQUEST_TAIL, layout.COMPLETION_HEAD, layout.COMPLETION_TAIL])
      this.control[word] = start
  }

  /** The slab bytes of a slot. */
  data(slot: number, length = this.maxIoBytes): Buffer {
    return Buffer.from(this.memory.slab.buffer, 512 + slot * this.maxIoBytes, length)
  }

  request(...wanted: WantedRequest[]): void {
    for (const { tag, op, generation = 0, length = 512, sector = 0, fua = false, slot = tag } of wanted) {
      const at = layout.REQUESTS + (this.#requestHead & this.#mask) * layout.REQUEST_WORDS
      this.control[at + layout.REQUEST_KEY] = (generation << layout.TAG_BITS) | tag
      this.control[at + layout.REQUEST_OP] = op | (fua ? layout.FLAG_FUA : 0)
      this.control[at + layout.REQUEST_LENGTH] = length
      this.control[at + layout.REQUEST_SLOT] = slot
      this.control[at + layout.REQUEST_SECTOR_LOW] = sector % 2 ** 32
      this.control[at + layout.REQUEST_SECTOR_HIGH] = Math.floor(sector / 2 ** 32)
      this.#requestHead = (this.#requestHead + 1) | 0
    }
    Atomics.store(this.control, layout.REQUEST_HEAD, this.#requestHead)
  }

  /** Takes what is published. */
  completions(): Completion[] {
    const head = Atomics.load(this.control, layout.COMPLETION_HEAD)
    const taken: Completion[] = []
    while (this.#completionTail !== head) {
      const at = layout.completionsAt(this.depth) + (this.#completionTail & this.#mask) * layout.COMPLETION_WORDS
      const key = this.control[at + layout.COMPLETION_KEY] as number
      const result = this.control[at + layout.COMPLETION_RESULT] as number
      taken.push({ tag: key & layout.TAG_MASK, generation: key >>> layout.TAG_BITS, result })
      this.#completionTail = (this.#completionTail + 1) | 0
    }
    Atomics.store(this.control, layout.COMPLETION_TAIL, this.#completionTail)
    return taken
  }

  results(): number[] {
    return this.completions().map(({ result }) => result)
  }
}
