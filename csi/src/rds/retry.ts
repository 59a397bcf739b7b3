/** Trying again: only after failures that pass by themselves, and only what looks at the router before it writes. */
import { setTimeout as delay } from 'node:timers/promises'
import { deadlineExceeded, unavailable } from '../errors.ts'

/** The way to the router broke; the command may have run or not. */
export class ConnectionLost extends Error {}

/** The reply cannot be read: a line of the log, or of another console, may have come between. */
export class UnreadableReply extends Error {}

/** Before each retry; as many retries as there are delays, so five attempts. */
export const RETRY_DELAYS_MS: readonly number[] = [1_000, 2_000, 4_000, 8_000]

/** @throws {CsiError} UNAVAILABLE after the last retry, DEADLINE_EXCEEDED when the call's time is over before */
export async function retrying<T>(signal: AbortSignal, delaysMs: readonly number[], attempt: () => Promise<T>): Promise<T> {
  for (let retry = 0; ; retry++) {
    try {
      return await attempt()
    } catch (cause) {
      if (!(cause instanceof ConnectionLost || cause instanceof UnreadableReply)) throw cause
      const pause = delaysMs[retry]
      if (pause === undefined) {
        throw unavailable(`${cause.message}; ${retry + 1} attempts failed. Is the router up, and reachable from here?`, { cause })
      }
      await delay(pause, undefined, { signal }).catch(() => {
        throw deadlineExceeded(`${cause.message}; the time of the call was over after ${retry + 1} attempts`, { cause })
      })
    }
  }
}
