/** SIGINT, SIGTERM and SIGHUP as one AbortSignal, and the bound on what may follow them. */

const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** People, service managers and tests count on an end within 2 s; the rest is for the end of the process itself. */
const STOP_LIMIT_MS = 1_500

/** What a backend has of it to answer the requests it holds. */
export const STOP_GRACE_MS = 1_000

/** Aborts, with the name of the signal as reason, at the first of these signals; they no longer end the process by themselves. */
export function stopSignals(names: readonly NodeJS.Signals[] = STOP_SIGNALS): AbortController {
  const controller = new AbortController()
  for (const name of names) process.on(name, () => controller.abort(name))
  return controller
}

/**
 * Ends this process `STOP_LIMIT_MS` after the signal, if it is still there then: for a stage that does not listen.
 * The library removes its devices on the way out.
 */
export function boundStop(signal: AbortSignal): void {
  signal.addEventListener('abort', () => {
    setTimeout(() => {
      process.stderr.write(`ublk: not ended ${STOP_LIMIT_MS} ms after ${signal.reason}; giving up\n`)
      process.exit(1)
    }, STOP_LIMIT_MS).unref()
  })
}
