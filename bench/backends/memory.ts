/**
 * The memory backend that the JavaScript figures are measured with: one buffer, one native copy per request.
 *
 * Thread: the queue's worker, or the main thread. `mode: 'sync'` answers by returning, `mode: 'async'` by a promise: same copies,
 * so the difference is the price of the promise.
 */
import { type Backend, type BlockRequest, parseSize, type Size } from 'ublk'

export default function memoryBackend(options: Record<string, unknown>): Backend {
  const bytes = parseSize(options.size as Size)
  return options.mode === 'async' ? asyncMemory(bytes) : syncMemory(bytes)
}

function syncMemory(bytes: number): Backend {
  const store = Buffer.alloc(bytes)
  return {
    size: bytes,
    sync: true,
    read(buf: Buffer, offset: number) {
      store.copy(buf, 0, offset, offset + buf.length)
    },
    // The data of a write lies in shared memory, which `Buffer.copy` leaves slowly.
    write(_buf: Buffer, offset: number, req: BlockRequest) {
      req.copyTo(store, offset)
    },
  }
}

function asyncMemory(bytes: number): Backend {
  const { read, write } = syncMemory(bytes)
  return {
    size: bytes,
    async read(buf: Buffer, offset: number, req: BlockRequest) {
      read(buf, offset, req)
    },
    async write(buf: Buffer, offset: number, req: BlockRequest) {
      write?.(buf, offset, req)
    },
  }
}
