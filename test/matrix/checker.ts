/**
 * The program `ublk-check` (crates/ublk-check) beside this one: a line for each check, a line for each answer.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const PROGRAM = fileURLToPath(new URL('../../target/release/ublk-check', import.meta.url))

export class Checker {
  #child: ChildProcess
  #answer: (line: string) => void = () => undefined

  constructor() {
    this.#child = spawn(PROGRAM, { stdio: ['pipe', 'pipe', 'inherit'] })
    if (this.#child.stdout === null) throw new Error(`${PROGRAM} has no output`)
    createInterface(this.#child.stdout).on('line', (line) => this.#answer(line))
    this.#child.on('error', (error) => this.#answer(`wrong ${error.message}`))
    this.#child.on('exit', (code, signal) => this.#answer(`wrong the checker ended (${code ?? signal})`))
  }

  /**
   * Runs one check.
   * @returns requests it sent
   * @throws as `ask`
   */
  async check(line: string, limitMs: number): Promise<number> {
    const [requests = 0] = await this.ask(line, limitMs)
    return requests
  }

  /**
   * Sends a line.
   * @returns the numbers of the answer
   * @throws an Error with its sentence, or when it gave no answer in time; the checker is of no use then
   */
  async ask(line: string, limitMs: number): Promise<number[]> {
    const answered = new Promise<string>((resolve) => {
      this.#answer = resolve
    })
    this.#child.stdin?.write(`${line}\n`)
    const timer = setTimeout(() => this.#answer(`wrong no answer within ${limitMs} ms`), limitMs)
    const answer = await answered.finally(() => clearTimeout(timer))
    const [word, ...rest] = answer.split(' ')
    if (word !== 'ok') throw new Error(rest.join(' '))
    return rest.map(Number)
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const ended = once(this.#child, 'exit')
    this.#child.stdin?.end()
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 1000)
    // One whose requests hang does not end at all.
    await Promise.race([ended, delay(5000, undefined, { ref: false })])
    clearTimeout(timer)
  }
}
