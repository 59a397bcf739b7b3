/** A server in reserve: to start one takes longer than all the rest of a recovery, and the users of a device wait for it. */

import type { ChildProcess } from 'node:child_process'
import { startServer } from './launch.ts'

/** The one that was taken has the machine to itself meanwhile. */
const REPLACE_AFTER_MS = 1_000

export class Spare {
  #server: ChildProcess | null = null
  #timer: NodeJS.Timeout | null = null

  /** A server for `launch`; soon there is another one in reserve. */
  readonly take = (): ChildProcess => {
    const server = this.#server?.connected ? this.#server : startServer()
    this.#server = null
    this.#timer ??= setTimeout(() => this.#replace(), REPLACE_AFTER_MS)
    return server
  }

  /** Lets the one in reserve end. */
  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    if (this.#server?.connected) this.#server.disconnect()
    this.#server?.unref()
    this.#server = null
  }

  #replace(): void {
    this.#timer = null
    this.#server = startServer()
    // One that cannot be started, or ends, is not connected when it is wanted.
    this.#server.on('error', () => undefined)
  }
}
