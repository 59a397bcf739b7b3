/**
 * The SSH session to a router: one connection, kept and built again when it is lost, and one command on it at a time (concurrent channels
 * block on RouterOS). A command that is given up takes its connection with it, since the router may still be busy with it.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { Client, type ClientChannel } from 'ssh2'
import { CsiError, deadlineExceeded, failedPrecondition, unauthenticated, unavailable } from '../errors.ts'
import { unlessAborted } from './abort.ts'
import { type RdsConfig, readPrivateKey } from './config.ts'
import { ConnectionLost } from './retry.ts'

/** What the rest of the provider needs of the way to the router. */
export interface Transport {
  /** All that the script prints, both streams. @throws {ConnectionLost} also when the script may have run */
  exec(script: string, signal: AbortSignal, timeoutMs?: number): Promise<string>
  close(): Promise<void>
}

/** Login option of RouterOS: no colours, no questions to the terminal, a dumb one, 1024 columns. */
const LOGIN_OPTIONS = '+cet1024w'
const CONNECT_TIMEOUT_MS = 10_000
const COMMAND_TIMEOUT_MS = 30_000
/** 1000 volumes take half of one; more is no answer to any of our questions. */
const MAX_REPLY_BYTES = 16 << 20

export class SshSession implements Transport {
  readonly #config: RdsConfig
  #client: Client | undefined
  #turn: Promise<unknown> = Promise.resolve()
  #closed = false

  constructor(config: RdsConfig) {
    this.#config = config
  }

  exec(script: string, signal: AbortSignal, timeoutMs: number = this.#config.commandTimeoutMs ?? COMMAND_TIMEOUT_MS): Promise<string> {
    const run = async (): Promise<string> => {
      signal.throwIfAborted()
      // The command's own time begins with its turn.
      const limit = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)])
      const client = await this.#connected(limit)
      return this.#command(client, script, limit)
    }
    const result = this.#turn.then(run, run)
    this.#turn = result.catch(() => undefined)
    // The caller's time runs while it waits for its turn too.
    return unlessAborted(result, signal, 'the time of the call was over')
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#drop()
    await this.#turn
  }

  #drop(): void {
    this.#client?.destroy()
    this.#client = undefined
  }

  async #connected(signal: AbortSignal): Promise<Client> {
    if (this.#closed) throw unavailable('the driver is ending')
    if (this.#client) return this.#client
    const client = new Client()
    let seenKey = ''
    const pinned = fingerprint(this.#config.hostKey)
    const lost = (): void => {
      if (this.#client === client) this.#client = undefined
    }
    client.on('close', lost).on('error', lost)
    const limit = AbortSignal.any([signal, AbortSignal.timeout(CONNECT_TIMEOUT_MS)])
    const ready = once(client, 'ready', { signal: limit })
    try {
      client.connect({
        host: this.#config.address,
        port: this.#config.port ?? 22,
        username: this.#config.user + LOGIN_OPTIONS,
        privateKey: readPrivateKey(this.#config.privateKeyFile),
        readyTimeout: CONNECT_TIMEOUT_MS,
        hostVerifier: (key: Buffer) => {
          seenKey = fingerprintOf(key)
          return seenKey === pinned
        },
      })
      // Lost before it is ready, without an error: the router went away in the middle of it.
      await Promise.race([ready, once(client, 'close', { signal: limit }).then(() => Promise.reject(new Error('connection closed')))])
    } catch (cause) {
      ready.catch(() => undefined)
      client.on('error', () => undefined).destroy()
      if (signal.aborted) throw deadlineExceeded('the time was over before the router was reached', { cause })
      throw this.#connectFailure(cause, seenKey, pinned)
    }
    // Each command is one small packet that waits for its answer.
    client.setNoDelay(true)
    this.#client = client
    return client
  }

  #connectFailure(cause: unknown, seenKey: string, pinned: string): Error {
    const { address, port = 22, user, privateKeyFile } = this.#config
    if (cause instanceof CsiError) return cause
    if (seenKey !== '' && seenKey !== pinned) {
      return failedPrecondition(
        `${address}:${port} has the host key ${seenKey}, and ${pinned} is pinned; if the router was replaced, change rds.hostKey`,
        { cause },
      )
    }
    const level = (cause as { level?: string }).level
    if (level === 'client-authentication') {
      return unauthenticated(
        `the router at ${address}:${port} refuses ${user} with the key in ${privateKeyFile}; add its public half there`,
        {
          cause,
        },
      )
    }
    return new ConnectionLost(`no SSH connection to ${address}:${port}: ${(cause as Error).message}`, { cause })
  }

  /** One channel from its start to its close. */
  async #command(client: Client, script: string, limit: AbortSignal): Promise<string> {
    const pieces: Buffer[] = []
    let bytes = 0
    try {
      return await new Promise<string>((resolve, reject) => {
        // An abort that has been is told to nobody who listens later.
        limit.throwIfAborted()
        const lost = (): void => reject(new ConnectionLost('the connection was lost while the command ran'))
        const late = (): void => reject(limit.reason)
        client.once('close', lost)
        limit.addEventListener('abort', late, { once: true })
        const piece = (data: Buffer): void => {
          bytes += data.length
          if (bytes > MAX_REPLY_BYTES) reject(new ConnectionLost(`the reply is longer than ${MAX_REPLY_BYTES} bytes`))
          else pieces.push(data)
        }
        client.exec(script, (error: Error | undefined, channel: ClientChannel) => {
          if (error) return reject(new ConnectionLost(`the router opens no channel: ${error.message}`, { cause: error }))
          channel.on('data', piece)
          channel.stderr.on('data', piece)
          channel.on('close', () => {
            client.off('close', lost)
            limit.removeEventListener('abort', late)
            // The client's own close follows a moment later when the connection went down with the channel.
            setImmediate(() => (this.#client === client ? resolve(Buffer.concat(pieces).toString('latin1')) : lost()))
          })
        })
      })
    } catch (cause) {
      this.#drop()
      if (cause instanceof ConnectionLost) throw cause
      throw deadlineExceeded('the router did not answer in time; look at its load and its log', { cause })
    }
  }
}

function fingerprint(hostKey: string): string {
  if (hostKey.startsWith('SHA256:')) return hostKey.replace(/=+$/, '')
  return fingerprintOf(Buffer.from(hostKey.split(' ')[1] ?? '', 'base64'))
}

const fingerprintOf = (key: Buffer): string => `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`
