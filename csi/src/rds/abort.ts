/** Work that goes on though the call that waits for it is over. */
import { deadlineExceeded } from '../errors.ts'

/** @throws {CsiError} DEADLINE_EXCEEDED with `refusal`, when `signal` aborts before `result` is there */
export function unlessAborted<T>(result: Promise<T>, signal: AbortSignal, refusal: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const late = (): void => reject(deadlineExceeded(refusal, { cause: signal.reason }))
    if (signal.aborted) late()
    signal.addEventListener('abort', late, { once: true })
    result.then(resolve, reject).finally(() => signal.removeEventListener('abort', late))
  })
}
