/** Faults that a test router has on demand. In a process of its own they are armed by a file, `DIR/faults.json`, which it reads and removes. */
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'

export interface Fault {
  kind:
    | 'no-space'
    | 'busy'
    /** The connection is lost before the command runs, or when it has run and nothing was told. */
    | 'drop-before'
    | 'drop-after'
    | 'slow'
    /** Half of the reply is missing, and the channel ends as if all were well. */
    | 'malformed'
    /** Lines of the log come in between. */
    | 'interleaved'
    | 'reboot'
  /** Part of the script that it waits for; empty: the next one. */
  match?: string
  /** How often; once unless given. */
  times?: number
  /** How long `slow` waits, or `reboot` lasts. */
  milliseconds?: number
}

export class Faults {
  readonly #directory: string
  #armed: Fault[] = []

  constructor(directory: string) {
    this.#directory = directory
  }

  arm(...faults: Fault[]): void {
    this.#armed.push(...faults)
  }

  clear(): void {
    this.#armed = []
  }

  /** Faults that hit this script; what has hit as often as it should is gone. */
  take(script: string): Fault[] {
    const file = join(this.#directory, 'faults.json')
    if (existsSync(file)) {
      this.arm(...(JSON.parse(readFileSync(file, 'utf8')) as Fault[]))
      rmSync(file)
    }
    const hit = this.#armed.filter(({ match = '' }) => script.includes(match))
    for (const fault of hit) fault.times = (fault.times ?? 1) - 1
    this.#armed = this.#armed.filter(({ times = 1 }) => times > 0)
    return hit
  }
}
