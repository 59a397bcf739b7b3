/**
 * Abort signals around work that cannot be interrupted halfway.
 */
import { abortError, invalidType } from './errors.ts'

/** Options of calls that can take long. */
export interface CallOptions {
  /** Aborts the call: it rejects with an AbortError. */
  signal?: AbortSignal
}

/** The signal, or null; a TypeError for anything else. */
export function checkSignal(signal: AbortSignal | null | undefined): AbortSignal | null {
  if (signal !== undefined && signal !== null && !(signal instanceof AbortSignal)) throw invalidType('signal', 'an AbortSignal', signal)
  return signal ?? null
}

/**
 * Waits for `promise`, but not longer than until `signal` aborts: then it rejects with an AbortError and calls `onAbort`.
 * The work behind the promise goes on.
 */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal | null, what: string, onAbort?: (reason: Error) => void): Promise<T> {
  if (signal === null) return promise
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      const error = abortError(signal, what)
      reject(error)
      onAbort?.(error)
    }
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
    if (signal.aborted) abort()
    else signal.addEventListener('abort', abort, { once: true })
  })
}

/** A promise and its ends. */
export interface Deferred<T> {
  promise: Promise<T>
  resolve: (value: T | PromiseLike<T>) => void
  reject: (reason: unknown) => void
}

/** Promise.withResolvers; nobody has to listen to its rejection. */
export function deferred<T>(): Deferred<T> {
  let resolve!: Deferred<T>['resolve']
  let reject!: Deferred<T>['reject']
  const promise = new Promise<T>((res, rej) => {
    resolve = res
    reject = rej
  })
  promise.catch(() => {})
  return { promise, resolve, reject }
}
