/**
 * A backend module that serves memory, except for reads of one place, the trap, where it prints `trapped` and does what its option `trap`
 * says. Options: `trap`, `sync`.
 */
import { writeSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import type { Backend } from '../../src/index.ts'

export const SIZE = 64 << 20
/** Far from what partition scans and udev read. */
export const TRAP_OFFSET = 32 << 20

export type Trap = 'none' | 'exit' | 'throw-later' | 'never' | 'block' | 'slow'

const traps: Record<Trap, () => void | Promise<void>> = {
  none: () => {},
  exit: () => process.exit(3),
  // Not in the handler, whose throw is only an answer: nobody can catch this one.
  'throw-later': () => {
    setTimeout(() => {
      throw new Error('thrown where nobody catches it')
    }, 10)
    return new Promise(() => {})
  },
  never: () => new Promise(() => {}),
  block: () => {
    for (;;);
  },
  slow: () => delay(300),
}

export default function trapBackend({ trap = 'none', sync = false }: { trap?: Trap; sync?: boolean } = {}): Backend {
  const store = Buffer.alloc(SIZE)
  return {
    size: SIZE,
    ...(sync ? { sync: true as const } : {}),
    read(buffer, offset) {
      store.copy(buffer, 0, offset, offset + buffer.length)
      if (offset !== TRAP_OFFSET) return undefined
      writeSync(1, 'trapped\n') // past the worker's stdout, which is a message to the main thread
      return traps[trap]()
    },
    write(buffer, offset) {
      buffer.copy(store, offset)
    },
    flush() {},
  }
}
