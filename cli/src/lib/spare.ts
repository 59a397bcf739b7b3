/** A server in reserve: to start one takes longer than all the rest of a recovery, and the users of a device wait for it. */

import type { ChildProcess } from 'node:child_process'
import { startServer } from './launch.ts'

export class Spare {
  #server: ChildProcess | null = null

  /** A server for `launch`, and from now on another one is in reserve. */
  readonly take = (): ChildProcess => {
    const server = this.#server?.connected ? this.#server : startServer()
    this.#replace()
    return server
  }

  /** Lets the one in reserve end. */
  close(): void {
    if (this.#server?.connected) this.#server.disconnect()
    this.#server?.unref()
    this.#server = null
  }

  #replace(): void {
    const server = startServer()
    // One that cannot be started, or ends, is not connected when it is wanted.
    server.on('error', () => undefined)
    this.#server = server
  }
}
