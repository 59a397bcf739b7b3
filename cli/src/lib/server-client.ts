/** Asks the server of a device over its socket. */

import { type ErrorReport, EXIT, Failure } from './failure.ts'
import { http } from './http.ts'

const DEFAULT_LIMIT_MS = 5_000

/**
 * One call. Resolves with the JSON answer, or null when nobody listens at `socketPath`, or no more: then it may be carried out or not.
 * @throws the server's own error, or a Failure when there is no answer within `limitMs`
 */
export async function askServer<T>(
  socketPath: string,
  method: 'GET' | 'POST',
  path: string,
  limitMs = DEFAULT_LIMIT_MS,
): Promise<T | null> {
  try {
    const { status, body } = await exchange(socketPath, method, path, limitMs)
    const value = JSON.parse(body) as T & { error?: ErrorReport }
    if (status !== 200 && value.error !== undefined) throw new Failure(value.error)
    return value
  } catch (error) {
    if (isNobodyThere(error)) return null
    throw error
  }
}

/**
 * One call whose answer nobody waits for. Resolves when it is sent, with false when nobody listens at `socketPath`, or no more. The server
 * carries it out by itself: what is in the socket is read also after this end is closed.
 */
export async function tellServer(socketPath: string, method: 'POST', path: string): Promise<boolean> {
  const call = http().request({ socketPath, method, path, agent: false })
  // A server that is too busy to take the call does not hold us up either.
  const timer = setTimeout(() => call.destroy(noAnswer(socketPath, DEFAULT_LIMIT_MS)), DEFAULT_LIMIT_MS)
  try {
    await new Promise<void>((resolve, reject) => {
      call.once('error', reject).once('finish', resolve).end()
    })
    return true
  } catch (error) {
    if (isNobodyThere(error)) return false
    throw error
  } finally {
    clearTimeout(timer)
    call.on('error', () => undefined).destroy()
  }
}

/** Nobody listens, or whoever did has ended before the answer was out: the call may be carried out all the same. */
function isNobodyThere(error: unknown): boolean {
  return ['ENOENT', 'ECONNREFUSED', 'ECONNRESET', 'EPIPE'].includes((error as NodeJS.ErrnoException).code ?? '')
}

function exchange(socketPath: string, method: string, path: string, limitMs: number): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const call = http().request({ socketPath, method, path, agent: false }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.once('error', reject)
      response.once('end', () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') }))
    })
    const timer = setTimeout(() => call.destroy(noAnswer(socketPath, limitMs)), limitMs)
    call.once('error', reject)
    call.once('close', () => clearTimeout(timer))
    call.end()
  })
}

function noAnswer(socketPath: string, limitMs: number): Failure {
  return new Failure({
    code: 'ERR_UBLK_TIMEOUT',
    message: `the server at ${socketPath} did not answer within ${limitMs} ms`,
    hint: 'Its process may be stopped or very busy: ask again. Or `kill -9` it, then `ublk recover` a device with recovery, `ublk del` another one.',
    exitCode: EXIT.timedOut,
  })
}
