/**
 * What the thread that owns a device and the worker of one of its queues say to each other.
 *
 * Thread: both. Errors travel as plain data: a structured clone would lose `code` and `errno`.
 */
import type { Abilities, BackendInfo } from './backend.ts'
import { messageOf } from './errors.ts'
import type { NativeError } from './native.ts'

/** Given to the worker when it starts. */
export interface WorkerInit {
  url: string
  options: Record<string, unknown>
}

/** To the worker: open the backend for the queue that it will serve. */
export interface OpenMessage {
  type: 'open'
  info: BackendInfo
}

/** To the worker: serve this queue. */
export interface ServeMessage {
  type: 'serve'
  /** `NativeDevice.key`. */
  key: number
  queue: number
  depth: number
  maxIoBytes: number
  slots: number
  slab: Uint8Array
  control: Uint8Array
}

/** To the worker: close the backend, which serves nothing, and end. */
export interface CloseMessage {
  type: 'close'
}

/** To the worker: answer everything EIO from now on. A blocked worker cannot hear it. */
export interface RefuseMessage {
  type: 'refuse'
  reason: string
}

export type ToWorker = OpenMessage | ServeMessage | CloseMessage | RefuseMessage

/** From the worker. `failed` and `ended` are its last words. */
export type FromWorker =
  | { type: 'loaded'; abilities: Abilities }
  | { type: 'opened' }
  | { type: 'serving' }
  | { type: 'refusing' }
  | { type: 'report'; message: string; cause: PlainError | null }
  | { type: 'failed'; error: PlainError }
  | { type: 'ended'; error: PlainError | null }

/** An error as plain data. */
export interface PlainError {
  name: string
  message: string
  stack: string
  code: string | null
  errno: number | null
  /** Set when the addon reported it. */
  native: NativeError | null
}

export function toPlainError(error: unknown, native: NativeError | null = null): PlainError {
  if (!(error instanceof Error)) return { name: 'Error', message: messageOf(error), stack: '', code: null, errno: null, native }
  const { code, errno } = error as { code?: unknown; errno?: unknown }
  return {
    name: error.name,
    message: error.message,
    stack: error.stack ?? '',
    code: typeof code === 'string' ? code : null,
    errno: typeof errno === 'number' ? errno : null,
    native,
  }
}

export function fromPlainError({ name, message, stack, code, errno }: PlainError): Error {
  const error = Object.assign(new Error(message), code === null ? {} : { code }, errno === null ? {} : { errno })
  return Object.defineProperties(error, {
    name: { value: name, configurable: true, writable: true },
    stack: { value: stack, configurable: true, writable: true },
  })
}
