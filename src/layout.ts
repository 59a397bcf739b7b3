/**
 * The memory of one JavaScript queue: control words and data slots. Mirror of crates/ublk-node/src/layout.rs, same names, same order.
 *
 * Thread: any. Both blocks belong to the thread that owns the device, never to a worker that can die: the driver keeps a tag's address.
 * `docs/architecture.md`, section 4, is the contract.
 */
import { UblkError } from './errors.ts'
import type { QueueMemory } from './native.ts'

// Indexes of Int32 words. Words that different threads write lie in cache lines of their own.
/** Requests published by native, free-running. */
export const REQUEST_HEAD = 0
/** Requests taken by JavaScript. */
export const REQUEST_TAIL = 16
/** Completions published by JavaScript. */
export const COMPLETION_HEAD = 32
/** Completions taken by native. */
export const COMPLETION_TAIL = 48
/** 1: JavaScript wants a wake for the next request (main mode). */
export const JS_SLEEPING = 64
/** 1: the owner of the ring sleeps in the kernel and wants a kick (main mode). */
export const NATIVE_SLEEPING = 80
/** One of `STATE_…`. */
export const STATE = 96
/** Byte offset of slot 0 in the slab. */
export const SLAB_BASE = 97
/** 1: JavaScript answers requests whose handlers still hold their slots; a negative result says nothing of its slot from now on. */
export const JS_REFUSES = 98
/** First word of the request entries. */
export const REQUESTS = 128

export const STATE_STARTING = 0
export const STATE_SERVING = 1
export const STATE_FAILING = 2
export const STATE_ENDED = 3

export const REQUEST_WORDS = 8
// Words of a request entry.
/** `generation << 12 | tag`. */
export const REQUEST_KEY = 0
/** `op | flags << 8`: the kernel's `op_flags`. */
export const REQUEST_OP = 1
/** Bytes; 0 for a flush. */
export const REQUEST_LENGTH = 2
/** Slot of the slab that holds the data. */
export const REQUEST_SLOT = 3
export const REQUEST_SECTOR_LOW = 4
export const REQUEST_SECTOR_HIGH = 5

export const COMPLETION_WORDS = 2
// Words of a completion entry.
/** The key of the request. */
export const COMPLETION_KEY = 0
/** Bytes done or -errno. */
export const COMPLETION_RESULT = 1

/** Slots that take the place of those which late handlers may still use. */
export const SPARE_SLOTS = 16

export const TAG_BITS = 12
export const TAG_MASK: number = (1 << TAG_BITS) - 1

// UBLK_IO_OP_* and UBLK_IO_F_* in ublk_cmd.h.
export const OP_MASK = 0xff
export const OP_READ = 0
export const OP_WRITE = 1
export const OP_FLUSH = 2
export const OP_DISCARD = 3
export const OP_WRITE_ZEROES = 5
export const FLAG_FUA: number = 1 << 13
/** Not of the kernel: the request of this key was answered, past its deadline. No completion is wanted. */
export const OP_EXPIRED = 255

export const SECTOR_BYTES = 512
/** Room to align slot 0: V8's allocations are not page aligned. */
const PAGE_BYTES = 4096

/** Entries of each ring: the power of two that holds every tag and every spare slot twice, so that neither ring can be full. */
export function ringCapacity(depth: number): number {
  return 2 ** Math.ceil(Math.log2(2 * (depth + SPARE_SLOTS)))
}

/** Slots of the slab: one for each tag, the spare ones, and a last one that no handler ever sees. */
export function slotCount(depth: number): number {
  return depth + SPARE_SLOTS + 1
}

/** First word of the completion entries. */
export function completionsAt(depth: number): number {
  return REQUESTS + REQUEST_WORDS * ringCapacity(depth)
}

/** Words of the control block. */
export function controlWords(depth: number): number {
  return completionsAt(depth) + COMPLETION_WORDS * ringCapacity(depth)
}

/** Makes the memory of one queue. Nothing of the slab is resident until it is touched. */
export function allocateQueueMemory(depth: number, maxIoBytes: number): QueueMemory {
  const slots = slotCount(depth)
  try {
    const slab = new Uint8Array(new SharedArrayBuffer(slots * maxIoBytes + PAGE_BYTES))
    const control = new Uint8Array(new SharedArrayBuffer(controlWords(depth) * Int32Array.BYTES_PER_ELEMENT))
    return { slab, control, slots }
  } catch (cause) {
    throw new UblkError('ERR_UBLK_NO_MEMORY', {
      message: `no memory for ${slots} buffers of ${maxIoBytes} bytes`,
      hint: 'Take a smaller depth or maxIoBytes.',
      cause,
    })
  }
}
