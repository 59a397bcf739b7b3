/**
 * The socket of a served device: HTTP over a Unix socket.
 *
 *   GET /info      the device, as `info --json`        GET /stats     counters and latencies
 *   GET /metrics   the same for Prometheus             POST /stop     stops and removes the device; answers when it is gone
 *   POST /resize?size=BYTES[&add=WORD…]   changes its size; by `ublk serve` with the words of FILE that ask for it
 *   POST /quiesce[?timeoutMs=N]   lets go of the device, for another server; answers then, or with an error after N ms
 *   GET /shmem     the memory that its users share     POST /share?path=FILE[&readOnly]   POST /unshare?path=FILE   the same, changed
 *
 * Whoever can open the socket may do all of this: it is 0600, in a directory that is 0700.
 *
 * A caller has one answer, and must ask for it soon. One who has not asked keeps no server alive: an open socket would.
 */

import type { Server as HttpServer, IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Socket } from 'node:net'
import { type ErrorReport, reportOf, usage } from './failure.ts'
import { http } from './http.ts'
import { METRICS_CONTENT_TYPE } from './metrics.ts'
import { LONGEST_TIMEOUT_MS } from './units.ts'

/** What the routes answer with. */
export interface StatusSource {
  info(): Promise<object>
  stats(): Promise<object>
  metrics(): Promise<string>
  stop(): Promise<void>
  quiesce(timeoutMs?: number): Promise<void>
  resize(size: string, add: string[]): Promise<void>
  sharedMemory(): Promise<object>
  share(path: string, readOnly: boolean): Promise<void>
  unshare(path: string): Promise<void>
}

export interface StatusServer {
  /** Takes no more calls, and hangs up on those who have not asked; answers under way still get out. Twice is the same as once. */
  close(): void
}

/** How long a caller may be silent, before his question and while he takes the answer. */
const SILENCE_LIMIT_MS = 10_000

/** Begins to listen; the file at `path` must be gone. */
export function listen(path: string, source: StatusSource, { silenceLimitMs = SILENCE_LIMIT_MS } = {}): Promise<StatusServer> {
  const silent = new Set<Socket>()
  // HTTP is loaded by the first caller: most devices are never asked, and would keep its megabytes for years.
  let webServer: HttpServer | null = null
  const server = createServer((socket) => {
    silent.add(socket)
    socket.once('close', () => silent.delete(socket))
    // HTTP has listeners of its own, but later; an error also closes the socket, which is all there is to do.
    socket.on('error', () => undefined)
    socket.setTimeout(silenceLimitMs, () => socket.destroy())
    webServer ??= httpServer(source, silent, silenceLimitMs)
    webServer.emit('connection', socket)
  })
  const close = (): void => {
    server.close()
    for (const socket of silent) socket.destroy()
  }
  // `listen` makes the socket before it returns, with the rights that the mask leaves.
  const mask = process.umask(0o177)
  const listening = new Promise<StatusServer>((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, () => resolve({ close }))
  })
  process.umask(mask)
  return listening
}

function httpServer(source: StatusSource, silent: Set<Socket>, silenceLimitMs: number): HttpServer {
  return http().createServer((request, response) => {
    const { socket } = request
    silent.delete(socket)
    // The answer to a stop takes as long as the device does; from then on it is for the caller again to take it.
    socket.setTimeout(0)
    answer(request, response, source)
      .catch((error) => sendJson(response, 500, { error: reportOf(error) }))
      .finally(() => socket.setTimeout(silenceLimitMs))
  })
}

async function answer(request: IncomingMessage, response: ServerResponse, source: StatusSource): Promise<void> {
  const { pathname, searchParams } = new URL(request.url ?? '', 'http://server')
  const word = (name: string): string => searchParams.get(name) ?? ''
  switch (`${request.method} ${pathname}`) {
    case 'GET /info':
      return sendJson(response, 200, await source.info())
    case 'GET /stats':
      return sendJson(response, 200, await source.stats())
    case 'GET /metrics':
      return send(response, 200, METRICS_CONTENT_TYPE, await source.metrics())
    case 'POST /stop':
      await source.stop()
      return sendJson(response, 200, { stopped: true })
    case 'POST /quiesce': {
      const timeoutMs = searchParams.get('timeoutMs')
      if (timeoutMs !== null && !isTimeout(timeoutMs)) return sendJson(response, 400, { error: badTimeout(timeoutMs) })
      await source.quiesce(timeoutMs === null ? undefined : Number(timeoutMs))
      return sendJson(response, 200, { quiesced: true })
    }
    case 'POST /resize':
      await source.resize(word('size'), searchParams.getAll('add'))
      return sendJson(response, 200, await source.info())
    case 'GET /shmem':
      return sendJson(response, 200, await source.sharedMemory())
    case 'POST /share':
      await source.share(word('path'), searchParams.has('readOnly'))
      return sendJson(response, 200, await source.sharedMemory())
    case 'POST /unshare':
      await source.unshare(word('path'))
      return sendJson(response, 200, await source.sharedMemory())
    default:
      return sendJson(response, 404, { error: { code: 'ERR_UBLK_USAGE', message: `there is no ${request.method} ${request.url} here` } })
  }
}

function isTimeout(text: string): boolean {
  return /^[1-9]\d*$/.test(text) && Number(text) <= LONGEST_TIMEOUT_MS
}

function badTimeout(text: string): ErrorReport {
  return usage(`timeoutMs must be a whole number from 1 to ${LONGEST_TIMEOUT_MS}, got ${text}`).report
}

function sendJson(response: ServerResponse, status: number, value: object): void {
  send(response, status, 'application/json', `${JSON.stringify(value)}\n`)
}

function send(response: ServerResponse, status: number, type: string, body: string): void {
  // One answer a connection: a kept one would keep a server alive whose device is gone.
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body), connection: 'close' }).end(body)
}
