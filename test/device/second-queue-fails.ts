/**
 * A backend whose first queue is open at the very moment when the second one fails to open.
 *
 * Thread: each queue's worker.
 */
import type { Backend } from '../../src/index.ts'

export default function ({ gate }: { gate: SharedArrayBuffer }): Backend {
  const word = new Int32Array(gate)
  return {
    size: '1MiB',
    sync: true,
    read: (buffer) => void buffer.fill(0),
    open({ queue }) {
      if (queue === 0) {
        Atomics.store(word, 0, 1)
        Atomics.notify(word, 0)
        return
      }
      Atomics.wait(word, 0, 0)
      throw new Error('the second queue fails')
    },
  }
}
