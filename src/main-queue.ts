/**
 * A queue whose backend runs on the thread that owns the device. A native thread owns the ring; the two meet in the control block.
 *
 * Thread: the device's. Sleeping is an event count: whoever wants to sleep sets its word and looks once more; whoever has published takes
 * the word away and wakes only if it was set. So no wake is lost, and a busy queue makes none.
 */
import * as layout from './layout.ts'
import { Ring, type RingOptions } from './ring.ts'

export class MainQueue {
  readonly #control: Int32Array
  readonly #ring: Ring
  readonly #kick: () => unknown
  #scheduled = false

  /** @param kick wakes the owner of the ring */
  constructor(options: Omit<RingOptions, 'onPublish' | 'sync'>, kick: () => unknown) {
    this.#control = new Int32Array(options.memory.control.buffer)
    this.#kick = kick
    this.#ring = new Ring({ ...options, sync: false, onPublish: () => this.#kickIfSleeping() })
    Atomics.store(this.#control, layout.JS_SLEEPING, 1)
  }

  /** Native published a request while JS_SLEEPING was set. */
  readonly wake = (): void => {
    this.#scheduled = false
    for (;;) {
      if (this.#ring.drain() > 0) this.#kickIfSleeping()
      if (this.#ring.hasRequests) {
        // The budget is spent, or more came meanwhile: timers and sockets first.
        this.#schedule()
        return
      }
      Atomics.store(this.#control, layout.JS_SLEEPING, 1)
      if (!this.#ring.hasRequests) return
      Atomics.store(this.#control, layout.JS_SLEEPING, 0)
    }
  }

  /** Answers everything EIO from now on. */
  refuse(reason: Error): void {
    this.#ring.refuse(reason)
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(this.wake)
  }

  #kickIfSleeping(): void {
    if (Atomics.exchange(this.#control, layout.NATIVE_SLEEPING, 0) === 1) this.#kick()
  }
}
