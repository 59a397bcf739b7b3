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
}

export class Copies {
  readonly #connect: () => Transport
  readonly #running = new Map<string, Copy>()
  readonly #ending = new AbortController()
  #transport: Transport | undefined
  #router: Router | undefined

  constructor(connect: () => Transport) {
    this.#connect = connect
  }

  /** Whether a copy to this slot is under way, or came to an end that nobody has heard of. */
  running(slot: string): boolean {
    return this.#running.has(slot)
  }

  /** Whether this disk is being copied. */
  reading(slot: string): boolean {
    return [...this.#running.values()].some(({ from }) => from === slot)
  }

  /** Begins a copy, and resolves when it is whole. */
  copied(from: string, to: string, signal: AbortSignal): Promise<void> {
    this.#transport ??= this.#connect()
    this.#router ??= new Router(this.#transport)
    const result = this.#router.copy(from, to, this.#ending.signal)
    result.catch(() => undefined)
    this.#running.set(to, { from, result })
    return this.joined(to, signal)
  }

  /** @throws {CsiError} DEADLINE_EXCEEDED when the call's time is over first; the copy goes on */
  async joined(slot: string, signal: AbortSignal): Promise<void> {
    const { from, result } = this.#running.get(slot)!
    let settled = false
    const heard = result.finally(() => {
      settled = true
    })
    try {
      await unlessAborted(heard, signal, `copying ${from} goes on; the next call finds it further, or done`)
    } finally {
      // Heard of, either way: a copy that failed is begun again by whoever asks next. One that nobody heard of stays.
      if (settled) this.#running.delete(slot)
    }
  }

  async close(): Promise<void> {
    this.#ending.abort()
    await this.#transport?.close()
    await Promise.allSettled([...this.#running.values()].map(({ result }) => result))
  }
}
