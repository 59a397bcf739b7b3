/**
 * Copies of data on the router, which may last longer than the call that wants one: the copy goes on, and the next call for the same disk
 * joins it. They have a session of their own, so that they hold up nothing else, and run one after another.
 */
import { unlessAborted } from './abort.ts'
import { Router } from './router.ts'
import type { Transport } from './session.ts'

interface Copy {
  from: string
  result: Promise<void>
  isOver: boolean
}

export class Copies {
  readonly #connect: () => Transport
  readonly #begun = new Map<string, Copy>()
  readonly #ending = new AbortController()
  #transport: Transport | undefined
  #router: Router | undefined

  constructor(connect: () => Transport) {
    this.#connect = connect
  }

  /** Whether a copy to this slot is under way, or came to an end that nobody has heard of. */
  begun(slot: string): boolean {
    return this.#begun.has(slot)
  }

  /** Whether a copy from or to this slot is under way. */
  isBusy(slot: string): boolean {
    return [...this.#begun].some(([to, { from, isOver }]) => !isOver && (from === slot || to === slot))
  }

  /** What came of a copy is of no use any more: its target goes. */
  forget(slot: string): void {
    this.#begun.delete(slot)
  }

  /** Begins a copy, and resolves when it is whole. */
  copied(from: string, to: string, signal: AbortSignal): Promise<void> {
    this.#transport ??= this.#connect()
    this.#router ??= new Router(this.#transport)
    const copy: Copy = { from, result: this.#router.copy(from, to, this.#ending.signal), isOver: false }
    const over = (): void => {
      copy.isOver = true
    }
    copy.result.then(over, over)
    this.#begun.set(to, copy)
    return this.joined(to, signal)
  }

  /** @throws {CsiError} DEADLINE_EXCEEDED when the call's time is over first; the copy goes on */
  async joined(slot: string, signal: AbortSignal): Promise<void> {
    const copy = this.#begun.get(slot)!
    try {
      await unlessAborted(copy.result, signal, `copying ${copy.from} goes on; the next call finds it further, or done`)
    } finally {
      // Heard of, either way: a copy that failed is begun again by whoever asks next. One that nobody heard of stays.
      if (copy.isOver) this.#begun.delete(slot)
    }
  }

  async close(): Promise<void> {
    this.#ending.abort()
    await this.#transport?.close()
    await Promise.allSettled([...this.#begun.values()].map(({ result }) => result))
  }
}
