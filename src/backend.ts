/**
 * The interface a backend implements, and what its methods say about the device.
 *
 * Thread: any. Abilities are declared by the methods that exist, and found out before the device is added, never by failing.
 */
import { invalidType, invalidValue } from './errors.ts'
import type { BlockRequest } from './request.ts'
import { parseSize, type Size } from './size.ts'

/** What a handler may return: nothing for done, the bytes done, or a negative errno. */
// biome-ignore lint/suspicious/noConfusingVoidType: a handler without a return statement is the common case
export type BackendResult = number | void

/** What a backend is told when a device starts to be served by it. */
export interface BackendInfo {
  /** N of /dev/ublkbN. */
  id: number
  path: string
  /** Bytes. */
  size: number
  /** Logical block size in bytes: every offset and length is a multiple of it. */
  blockSize: number
  readOnly: boolean
  queues: number
  depth: number
  /** Longest read or write in bytes. */
  maxIoBytes: number
  /** Queue that this copy of the backend serves, or null when one object serves all of them. */
  queue: number | null
}

/** Abilities that methods alone cannot tell. */
export interface BackendSupports {
  /**
   * How a write with `req.fua` becomes durable: 'flush' (default), the library calls `flush()` after the write; 'native', `write` does
   * it. Needs `flush`.
   */
  fua?: 'flush' | 'native'
}

/**
 * Where the bytes of a device live. The methods that exist decide what the device can do.
 *
 * Handlers may return at once or return a promise. `undefined` is all done; a number is the bytes done, or a negative errno; what is thrown
 * or rejected reaches the user of the device as `error.errno`, else `error.code`, else EIO. Requests run side by side and settle in any order.
 * @see UBLK_IO_OP_* in the kernel's ublk_cmd.h
 */
export interface Backend {
  /** Size of the device, unless the option `size` is given. */
  size?: Size
  /** Logical block size of the device in bytes, unless the option `blockSize` is given. */
  blockSize?: number
  /**
   * For a backend in a worker: no handler ever returns a promise. The worker then waits inside the kernel, which is the fastest way, and its
   * event loop (timers, sockets, promises) does not run while the device is live. Without meaning on the main thread.
   */
  sync?: boolean
  supports?: BackendSupports

  /**
   * Fills `buf` with the data of one read.
   * @param buf `length` bytes of shared memory; yours until the answer, then reused
   * @param offset place on the device in bytes; a multiple of the logical block size
   * @returns bytes filled; the kernel asks again for a missing rest, and 0 is an error
   */
  read(buf: Buffer, offset: number, req: BlockRequest): BackendResult | Promise<BackendResult>
  /** Stores `buf`, as `read` the other way round. Without it the device is read-only. */
  write?(buf: Buffer, offset: number, req: BlockRequest): BackendResult | Promise<BackendResult>
  /** Makes every write that was answered before durable. With it the device says that it has a volatile write cache. */
  flush?(req: BlockRequest): BackendResult | Promise<BackendResult>
  /** The range is no longer needed; what it reads as is up to the backend. All of it or an error. */
  discard?(offset: number, length: number, req: BlockRequest): BackendResult | Promise<BackendResult>
  /** The range reads as zeros from now on. All of it or an error. Without it the kernel writes zeros. */
  writeZeroes?(offset: number, length: number, req: BlockRequest): BackendResult | Promise<BackendResult>

  /** Called before the first request of each start; in workers, once per queue. A rejection fails the start. */
  open?(info: BackendInfo): void | Promise<void>
  /** Called after the last request of each start that `open` saw. */
  close?(): void | Promise<void>
}

/** Default export of a backend module: a backend, or a function that makes one for each queue. */
export type BackendFactory = (options: Record<string, unknown>) => Backend | Promise<Backend>

/** What the methods of a backend say about its device. Plain data: it travels from a worker to the main thread. */
export interface Abilities {
  sizeBytes: number | null
  blockSize: number | null
  sync: boolean
  write: boolean
  flush: boolean
  discard: boolean
  writeZeroes: boolean
  /** `write` makes a FUA write durable by itself. */
  nativeFua: boolean
}

/** Result of `abilitiesOf`: what the backend says, or the error of the one who wrote it, thrown. */
export function abilitiesOf(backend: Backend, name = 'backend', member = `${name}.`): Abilities {
  if (typeof backend !== 'object' || backend === null) throw invalidType(name, 'an object with a read method', backend)
  if (typeof backend.read !== 'function') throw invalidType(`${member}read`, 'a function', backend.read)
  const has = (method: 'write' | 'flush' | 'discard' | 'writeZeroes' | 'open' | 'close'): boolean => {
    const value: unknown = backend[method]
    if (value !== undefined && typeof value !== 'function') throw invalidType(`${member}${method}`, 'a function or absent', value)
    return value !== undefined
  }
  has('open')
  has('close')
  const fua: unknown = backend.supports?.fua ?? 'flush'
  if (fua !== 'flush' && fua !== 'native') throw invalidValue(`${member}supports.fua`, "'flush' or 'native'", fua)
  if (fua === 'native' && !has('flush')) {
    throw invalidValue(`${member}supports.fua`, 'absent without a flush method (the kernel knows FUA only with a volatile cache)', fua)
  }
  return {
    sizeBytes: backend.size === undefined ? null : parseSize(backend.size, `${member}size`),
    blockSize: backend.blockSize ?? null,
    sync: backend.sync === true,
    write: has('write'),
    flush: has('flush'),
    discard: has('write') && has('discard'),
    writeZeroes: has('write') && has('writeZeroes'),
    nativeFua: fua === 'native',
  }
}
