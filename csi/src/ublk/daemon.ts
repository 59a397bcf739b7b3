/**
 * The host's server of ublk volumes: holds the devices of one pool and answers the plugins on a Unix socket. It outlives the pods of the
 * driver, and its devices outlive it.
 */

import { mkdir, realpath } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { dirname } from 'node:path'
import { status } from '@grpc/grpc-js'
import type { Logger } from 'pino'
import { CsiError, invalidArgument } from '../errors.ts'
import { claimName, claimSocketPath, listenPrivately } from '../socket.ts'
import { loadDriver } from './driver.ts'
import { Pool } from './pool.ts'
import { type AnswerLine, type OperationName, type RequestLine, readLine } from './protocol.ts'

/** Serves until a stop signal. Never returns while a device could be lost by the end of the process. */
export async function runDaemon({ pool: directory, socket }: { pool: string; socket: string }, log: Logger): Promise<void> {
  // An end by an error of ours would take the devices along, mounted or not; a kill leaves them to the next daemon.
  process.on('uncaughtException', (error) => {
    log.fatal({ err: error }, 'the daemon fails; its devices wait for the next one')
    process.kill(process.pid, 'SIGKILL')
  })
  await mkdir(directory, { recursive: true, mode: 0o700 })
  await claimName(`ublk-csi-pool:${await realpath(directory)}`, `another daemon serves the pool ${directory}; stop it first`)
  await mkdir(dirname(socket), { recursive: true, mode: 0o700 })
  await claimSocketPath(socket)
  await loadDriver()
  const pool = await Pool.open(directory, log)
  const server = createServer({ allowHalfOpen: true }, (connection) => void answer(connection, pool, log))
  await listenPrivately(server, socket)
  log.info({ pool: directory, socket }, 'serving')
  await stopSignal()
  server.close()
  const isFree = await pool.letGo()
  log.info({ isFree }, 'ending; the devices wait for the next daemon')
  // Where the kernel cannot take them over quietly, only an end that runs nothing more of ours leaves them be.
  process.kill(process.pid, 'SIGKILL')
}

function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve())
  })
}

async function answer(connection: Socket, pool: Pool, log: Logger): Promise<void> {
  connection.on('error', () => {})
  const begunMs = performance.now()
  let operation = '?'
  let line: AnswerLine
  try {
    const request = parseRequest(await readLine(connection), pool)
    operation = request.operation
    const handler = pool.operations[request.operation] as (given: unknown) => Promise<unknown>
    line = { value: await handler(request.arguments) }
    log.debug({ operation, arguments: request.arguments, durationMs: Math.round(performance.now() - begunMs) }, 'done')
  } catch (error) {
    const { code, message } =
      error instanceof CsiError ? error : { code: status.INTERNAL, message: String((error as Error)?.message ?? error) }
    log.warn({ operation, code: status[code], err: error instanceof CsiError ? undefined : error }, message)
    line = { error: { code, message } }
  }
  if (!connection.destroyed) connection.end(`${JSON.stringify(line)}\n`)
}

function parseRequest(line: string, pool: Pool): RequestLine {
  const { operation, arguments: given } = JSON.parse(line) as { operation: string; arguments: unknown }
  if (!Object.hasOwn(pool.operations, operation))
    throw invalidArgument(`the daemon knows no operation "${operation}"; plugin and daemon must be of one version`)
  return { operation: operation as OperationName, arguments: given }
}
