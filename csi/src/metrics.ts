/**
 * What Prometheus is told: how many calls, how long, how they ended; and the HTTP server that tells it.
 */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'

/** From a call that finds its work done to a copy of a volume, in seconds. */
const DURATION_BUCKETS = [0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]

export class Metrics {
  readonly registry: Registry = new Registry()
  readonly #calls: Counter<'method' | 'code'>
  readonly #durations: Histogram<'method'>
  readonly #running: Gauge<'method'>

  constructor() {
    const registers = [this.registry]
    collectDefaultMetrics({ register: this.registry })
    this.#calls = new Counter({
      name: 'ublk_csi_calls_total',
      help: 'CSI calls that have ended, by gRPC status code.',
      labelNames: ['method', 'code'],
      registers,
    })
    this.#durations = new Histogram({
      name: 'ublk_csi_call_duration_seconds',
      help: 'How long CSI calls took.',
      labelNames: ['method'],
      buckets: DURATION_BUCKETS,
      registers,
    })
    this.#running = new Gauge({
      name: 'ublk_csi_calls_running',
      help: 'CSI calls that are being worked on.',
      labelNames: ['method'],
      registers,
    })
  }

  /** A call has begun; the function returned is to be told how it ended. */
  begin(method: string): (code: string, seconds: number) => void {
    this.#running.inc({ method })
    return (code, seconds) => {
      this.#running.dec({ method })
      this.#calls.inc({ method, code })
      this.#durations.observe({ method }, seconds)
    }
  }
}

/** Serves `GET /metrics` at HOST:PORT; port 0 takes a free one. */
export async function serveMetrics(metrics: Metrics, host: string, port: number): Promise<{ port: number; close(): void }> {
  const server: Server = createServer(async (request, response) => {
    if (request.method !== 'GET' || request.url !== '/metrics') {
      response.writeHead(404).end('only GET /metrics is served here\n')
      return
    }
    response.writeHead(200, { 'content-type': metrics.registry.contentType }).end(await metrics.registry.metrics())
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, resolve)
  })
  const close = (): void => {
    server.close()
    server.closeAllConnections()
  }
  return { port: (server.address() as AddressInfo).port, close }
}
