/**
 * `ublk serve` as a service of systemd with Type=notify: readiness, status and signs of life, by sd_notify(3). Without one, nothing.
 *
 * The environment's words for us are taken out of it: our children are not the service.
 */

export class ServiceManager {
  readonly #socket: string | undefined
  readonly #onError: (error: unknown) => void
  #watchdog: NodeJS.Timeout | null = null
  /** Messages go one after the other. */
  #last: Promise<unknown> = Promise.resolve()

  constructor(onError: (error: unknown) => void, environment: NodeJS.ProcessEnv = process.env) {
    const { NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID = String(process.pid) } = environment
    for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete environment[name]
    this.#socket = NOTIFY_SOCKET
    this.#onError = onError
    // Half of the time, as sd_watchdog_enabled(3) has it.
    const ms = Number(WATCHDOG_USEC ?? 0) / 2_000
    if (ms > 0 && WATCHDOG_PID === String(process.pid)) this.#watchdog = setInterval(() => this.tell('WATCHDOG=1'), ms)
  }

  tell(state: string): void {
    const socket = this.#socket
    if (socket === undefined) return
    this.#last = this.#last
      .then(async () => (await import('ublk')).notifyServiceManager(state, { socket }))
      .catch((error: unknown) => this.#onError(error))
  }

  reloading(): void {
    this.tell(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`)
  }

  /** Resolves when all is sent. */
  async close(): Promise<void> {
    if (this.#watchdog !== null) clearInterval(this.#watchdog)
    await this.#last
  }
}
