/** A driver whose parts can be killed while they work: plugin, and the daemon or router under it. In the VM. */

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { type Backend, startDaemon, startRouter } from '../support/backends.ts'
import { CsiClient } from '../support/client.ts'
import { type Running, startProgram } from '../support/programs.ts'

export type Provider = 'ublk' | 'rds'
export type Victim = 'plugin' | 'backend'

/** How long a caller goes on asking, as the kubelet does. */
const RETRY_LIMIT_MS = 90_000
const RETRY_PAUSE_MS = 300
const CALL_LIMIT_MS = 60_000

export class Lab {
  readonly provider: Provider
  readonly directory: string
  /** Kills, those of them that came while a call was at work, and calls that were made again. */
  readonly counts = { kills: 0, hits: 0, retries: 0, codes: new Map<number, number>() }
  #backend!: Backend
  #plugin!: Running
  #client!: CsiClient

  private constructor(provider: Provider, directory: string) {
    this.provider = provider
    this.directory = directory
  }

  static async start(provider: Provider, directory: string): Promise<Lab> {
    mkdirSync(directory, { recursive: true })
    const lab = new Lab(provider, directory)
    await lab.#startBackend(false)
    await lab.#startPlugin()
    return lab
  }

  get #socket(): string {
    return join(this.directory, 'csi.sock')
  }

  async #startBackend(again: boolean): Promise<void> {
    this.#backend =
      this.provider === 'rds' ? await startRouter(join(this.directory, 'router')) : await startDaemon(join(this.directory, 'pool'), again)
  }

  async #startPlugin(): Promise<void> {
    const flags = ['--mode', 'all', '--provider', this.provider, '--node-id', 'node-1', '--endpoint', `unix://${this.#socket}`]
    this.#plugin = startProgram([...flags, ...this.#backend.flags])
    await this.#plugin.says('"serving"')
    this.#client = new CsiClient(this.#socket)
  }

  /** kill -9, and a new process in its place. */
  async kill(victim: Victim, isHit: boolean): Promise<void> {
    this.counts.kills += 1
    if (isHit) this.counts.hits += 1
    if (victim === 'plugin') {
      await this.#plugin.end('SIGKILL')
      this.#client.close()
      await this.#startPlugin()
    } else {
      await this.#backend.running.end('SIGKILL')
      await this.#startBackend(true)
    }
  }

  /** A call as it is, without trying again. */
  once<Response = Record<string, never>>(service: 'controller' | 'node', method: string, request: object): Promise<Response> {
    return this.#client.call<Response>(service, method, request, CALL_LIMIT_MS)
  }

  /** A call as the kubelet makes it: again until it is answered. */
  async call<Response = Record<string, never>>(service: 'controller' | 'node', method: string, request: object): Promise<Response> {
    const deadline = performance.now() + RETRY_LIMIT_MS
    for (;;) {
      try {
        return await this.once<Response>(service, method, request)
      } catch (error) {
        const { code } = error as { code: number }
        this.counts.codes.set(code, (this.counts.codes.get(code) ?? 0) + 1)
        if (performance.now() > deadline)
          throw new Error(`${method} was not answered in time: ${(error as Error).message}`, { cause: error })
        this.counts.retries += 1
        await delay(RETRY_PAUSE_MS)
      }
    }
  }

  /** What is left of volumes that have been deleted; empty when all is well. */
  leftovers(): string[] {
    const left = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.includes(` ${this.directory}/mnt`))
    left.push(...readdirSync('/dev').filter((name) => /^ublk[bc]\d+$/.test(name)))
    for (const folder of this.provider === 'ublk' ? ['pool/volumes', 'pool/snapshots'] : []) {
      left.push(...readdirSync(join(this.directory, folder)).map((name) => `${folder}/${name}`))
    }
    if (this.provider === 'rds') left.push(...this.#leftOnRouter())
    return left
  }

  #leftOnRouter(): string[] {
    const left: string[] = []
    const subsystems = '/sys/kernel/config/nvmet/subsystems'
    if (existsSync(subsystems)) left.push(...readdirSync(subsystems).filter((name) => name.includes('pvc-')))
    const connected = '/sys/class/nvme-subsystem'
    for (const name of existsSync(connected) ? readdirSync(connected) : []) left.push(`connected ${name}`)
    const images = readdirSync(join(this.directory, 'router'), { recursive: true, encoding: 'utf8' })
    left.push(...images.filter((name) => name.endsWith('.img')))
    return left
  }

  async end(): Promise<void> {
    this.#client.close()
    await this.#plugin.end()
    await this.#backend.running.end()
    rmSync(this.#socket, { force: true })
  }

  log(): string {
    return [this.#plugin.text(), this.#backend.running.text()].map((text) => text.split('\n').slice(-60).join('\n')).join('\n--\n')
  }
}
