/**
 * The socket of a served device: HTTP over a Unix socket.
 *
 *   GET /info      the device, as `info --json`        GET /stats     counters and latencies
 *   GET /metrics   the same for Prometheus             POST /stop     stops and removes the device; answers when it is gone
 *
 * Whoever can open the socket may do all of this: it is 0600, in a directory that is 0700.
 */

import type { Server as HttpServer, IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:net'
import { reportOf } from './failure.ts'
import { METRICS_CONTENT_TYPE } from './metrics.ts'

/** What the routes answer with. */
export interface StatusSource {
  info(): Promise<object>
  stats(): Promise<object>
  metrics(): Promise<string>
  stop(): Promise<void>
}

/** Begins to listen; the file at `path` must be gone. */
export function listen(path: string, source: StatusSource): Promise<Server> {
  // HTTP is loaded by the first caller: most devices are never asked, and would keep its megabytes for years.
  let http: Promise<HttpServer> | null = null
  const server = createServer((socket) => {
    http ??= httpServer(source)
    http.then((loaded) => loaded.emit('connection', socket)).catch(() => socket.destroy())
  })
  // `listen` makes the socket before it returns, with the rights that the mask leaves.
  const mask = process.umask(0o177)
  const listening = new Promise<Server>((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, () => resolve(server))
  })
  process.umask(mask)
  return listening
}

async function httpServer(source: StatusSource): Promise<HttpServer> {
  const { createServer } = await import('node:http')
  return createServer((request, response) => {
    answer(request, response, source).catch((error) => sendJson(response, 500, { error: reportOf(error) }))
  })
}

async function answer(request: IncomingMessage, response: ServerResponse, source: StatusSource): Promise<void> {
  switch (`${request.method} ${request.url}`) {
    case 'GET /info':
      return sendJson(response, 200, await source.info())
    case 'GET /stats':
      return sendJson(response, 200, await source.stats())
    case 'GET /metrics':
      return send(response, 200, METRICS_CONTENT_TYPE, await source.metrics())
    case 'POST /stop':
      await source.stop()
      return sendJson(response, 200, { stopped: true })
    default:
      return sendJson(response, 404, { error: { code: 'ERR_UBLK_USAGE', message: `there is no ${request.method} ${request.url} here` } })
  }
}

function sendJson(response: ServerResponse, status: number, value: object): void {
  send(response, status, 'application/json', `${JSON.stringify(value)}\n`)
}

function send(response: ServerResponse, status: number, type: string, body: string): void {
  // One answer a connection: a kept one would keep a server alive whose device is gone.
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body), connection: 'close' }).end(body)
}
