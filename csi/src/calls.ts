/**
 * The one layer around every call: its deadline becomes an abort signal, its volume is locked, how it ended is logged and counted, and
 * what it threw becomes a gRPC status. Calls themselves are one file each and know nothing of all that.
 */
import { type handleUnaryCall, type ServerUnaryCall, type ServiceError, status } from '@grpc/grpc-js'
import type { Logger } from 'pino'
import { CsiError, deadlineExceeded } from './errors.ts'
import type { Locks } from './locks.ts'
import type { Metrics } from './metrics.ts'
import { redacted } from './redact.ts'

/** Limit of a call whose caller set none. */
const DEFAULT_LIMIT_MS = 5 * 60_000

/** A handler of one call: `signal` aborts at the deadline, when the caller goes, and when the process must end. */
export type Handler<Request, Response> = (request: Request, signal: AbortSignal) => Promise<Response>

/** What the layer needs of its surroundings. */
export interface CallServices {
  log: Logger
  metrics: Metrics
  locks: Locks
  /** Aborts when the process must end before its calls have. */
  ending: AbortSignal
}

/** Which ids a request works on; what is empty or missing is refused by the handler, not here. */
export type LocksOf<Request> = (request: Request) => Array<string | undefined>

/** Calls that have begun and not ended. */
export class RunningCalls {
  readonly #running = new Set<Promise<unknown>>()

  get count(): number {
    return this.#running.size
  }

  add(call: Promise<unknown>): void {
    const ended = call.finally(() => this.#running.delete(ended))
    this.#running.add(ended)
  }

  /** Resolves when none is left. */
  async ended(): Promise<void> {
    while (this.#running.size > 0) await Promise.allSettled(this.#running)
  }
}

export class CallLayer {
  readonly running: RunningCalls = new RunningCalls()
  readonly #services: CallServices

  constructor(services: CallServices) {
    this.#services = services
  }

  /** A handler as grpc-js takes it. */
  unary<Request, Response>(
    method: string,
    handler: Handler<Request, Response>,
    locksOf: LocksOf<NoInfer<Request>> = () => [],
  ): handleUnaryCall<Request, Response> {
    return (call, answer) => {
      const answered = this.#run(method, call, handler, locksOf).then(
        (response) => answer(null, response),
        (error: CsiError) => answer({ code: error.code, details: error.message } as ServiceError),
      )
      this.running.add(answered)
    }
  }

  async #run<Request, Response>(
    method: string,
    call: ServerUnaryCall<Request, Response>,
    handler: Handler<Request, Response>,
    locksOf: LocksOf<Request>,
  ): Promise<Response> {
    const { log, metrics, locks } = this.#services
    const { request } = call
    const ids = locksOf(request).filter((id) => id !== undefined && id !== '') as string[]
    const about = { operation: method, ...idsOf(request) }
    const begun = performance.now()
    const end = metrics.begin(method)
    const limit = this.#limit(call)
    log.debug({ ...about, request: redacted(request) }, 'call begins')
    try {
      const response = await locks.holding(ids, method, () => handler(request, limit.signal))
      log[QUIET.has(method) ? 'debug' : 'info']({ ...about, durationMs: Math.round(performance.now() - begun) }, 'call done')
      end('OK', (performance.now() - begun) / 1000)
      return response
    } catch (thrown) {
      const error = asCsiError(thrown, method, limit.signal)
      const details = { ...about, durationMs: Math.round(performance.now() - begun), code: status[error.code] }
      // What went wrong inside is for us to mend: only then the stack says more than the message.
      if (error.code === status.INTERNAL || error.code === status.UNKNOWN) log.error({ ...details, err: thrown }, error.message)
      else log.warn(details, error.message)
      end(status[error.code], (performance.now() - begun) / 1000)
      throw error
    } finally {
      limit.clear()
    }
  }

  #limit<Request, Response>(call: ServerUnaryCall<Request, Response>): { signal: AbortSignal; clear: () => void } {
    const stop = new AbortController()
    const deadlineMs = Number(call.getDeadline())
    const limitMs = Math.min(Number.isFinite(deadlineMs) ? Math.max(deadlineMs - Date.now(), 0) : DEFAULT_LIMIT_MS, 2 ** 31 - 1)
    const timer = setTimeout(() => stop.abort(deadlineExceeded('the deadline of the call has passed')), limitMs)
    call.on('cancelled', () => stop.abort(new CsiError(status.CANCELLED, 'the caller has gone')))
    return { signal: AbortSignal.any([stop.signal, this.#services.ending]), clear: () => clearTimeout(timer) }
  }
}

/** Called every few seconds by probes and by the kubelet. */
const QUIET: ReadonlySet<string> = new Set(['Probe', 'GetPluginInfo', 'GetPluginCapabilities', 'NodeGetVolumeStats', 'NodeGetCapabilities'])

/** Fields by which a line of the log is found. */
function idsOf(request: unknown): Record<string, string> {
  const { volumeId, snapshotId, sourceVolumeId, name } = request as Record<string, unknown>
  return Object.fromEntries(
    Object.entries({ volumeId, snapshotId, sourceVolumeId, name }).filter(
      (entry): entry is [string, string] => typeof entry[1] === 'string' && entry[1] !== '',
    ),
  )
}

/** What a handler threw, as the caller is told. */
export function asCsiError(thrown: unknown, method: string, signal: AbortSignal): CsiError {
  if (thrown instanceof CsiError) return thrown
  const message = thrown instanceof Error ? thrown.message : String(thrown)
  // Work that stopped because it was told to ends with errors of all kinds; the reason is what counts.
  if (signal.aborted && signal.reason instanceof CsiError) {
    return new CsiError(signal.reason.code, `${method}: ${signal.reason.message} (${message})`, { cause: thrown })
  }
  return new CsiError(status.INTERNAL, `${method}: ${message}`, { cause: thrown })
}
