/**
 * Asks the daemon. A daemon that is being replaced is waited for a little: its devices wait, too.
 */
import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { CsiError, unavailable } from '../errors.ts'
import { type Answer, type AnswerLine, type Arguments, type OperationName, type RequestLine, readLine } from './protocol.ts'

const CONNECT_ATTEMPTS = 20
const CONNECT_PAUSE_MS = 250

export class DaemonClient {
  readonly #path: string

  constructor(path: string) {
    this.#path = path
  }

  async ask<Name extends OperationName>(operation: Name, given: Arguments<Name>, signal: AbortSignal): Promise<Answer<Name>> {
    signal.throwIfAborted()
    const connection = await this.#connect(signal)
    const leave = (): void => void connection.destroy()
    signal.addEventListener('abort', leave, { once: true })
    try {
      const request: RequestLine = { operation, arguments: given }
      connection.end(`${JSON.stringify(request)}\n`)
      const line = JSON.parse(await readLine(connection)) as AnswerLine
      if ('error' in line) throw new CsiError(line.error.code, line.error.message)
      return line.value as Answer<Name>
    } catch (cause) {
      if (signal.aborted) throw signal.reason
      if (cause instanceof CsiError) throw cause
      throw unavailable(`the daemon at ${this.#path} went while it worked on ${operation}; the call can be made again`, { cause })
    } finally {
      signal.removeEventListener('abort', leave)
      connection.destroy()
    }
  }

  async #connect(signal: AbortSignal): Promise<Socket> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await connected(this.#path)
      } catch (cause) {
        if (attempt === CONNECT_ATTEMPTS) {
          throw unavailable(`no daemon serves ${this.#path}: start \`ublk-csi --mode daemon\` on this host (${(cause as Error).message})`, {
            cause,
          })
        }
        await delay(CONNECT_PAUSE_MS, undefined, { signal }).catch(() => signal.throwIfAborted())
      }
    }
  }
}

function connected(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const connection = connect({ path, allowHalfOpen: true })
    connection.once('error', reject)
    connection.once('connect', () => {
      connection.off('error', reject)
      connection.on('error', () => {})
      resolve(connection)
    })
  })
}
