/** A backend module whose workers share one store: several queues see the same bytes. Options: `store` (SharedArrayBuffer), `sync`, `async`. */
import type { Backend } from '../../src/index.ts'

interface Options {
  store: SharedArrayBuffer
  /** Declare the handlers synchronous: the worker blocks in the kernel between batches. */
  sync?: boolean
  /** Answer each request later, from the event loop. */
  later?: boolean
}

export default function sharedMemory({ store, sync = false, later = false }: Options): Backend {
  const bytes = Buffer.from(store)
  const answer = later ? () => new Promise<void>((resolve) => setImmediate(resolve)) : () => undefined
  return {
    size: store.byteLength,
    ...(sync ? { sync: true as const } : {}),
    read(buffer, offset) {
      bytes.copy(buffer, 0, offset, offset + buffer.length)
      return answer()
    },
    write(buffer, offset) {
      buffer.copy(bytes, offset)
      return answer()
    },
    flush() {},
    discard(offset, length) {
      bytes.fill(0, offset, offset + length)
    },
    writeZeroes(offset, length) {
      bytes.fill(0, offset, offset + length)
    },
  }
}
