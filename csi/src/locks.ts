/**
 * One call at a time for each volume and snapshot. A second one is refused with ABORTED, as the specification wants: the caller retries.
 */
import { aborted } from './errors.ts'

export class Locks {
  /** What is held, and by which operation. */
  readonly #held = new Map<string, string>()

  isHeld(id: string): boolean {
    return this.#held.has(id)
  }

  /** Runs `work` holding all of `ids`, or throws ABORTED without running it. They are held until the work has really ended. */
  async holding<T>(ids: readonly string[], operation: string, work: () => Promise<T>): Promise<T> {
    const wanted = new Set(ids)
    for (const id of wanted) {
      const holder = this.#held.get(id)
      if (holder !== undefined) throw aborted(`${operation}: ${holder} is still at work on ${id}; try again when it has ended`)
    }
    for (const id of wanted) this.#held.set(id, operation)
    try {
      return await work()
    } finally {
      for (const id of wanted) this.#held.delete(id)
    }
  }
}
