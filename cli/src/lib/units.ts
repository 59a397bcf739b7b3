/** Quantities as people write and read them: bytes in IEC units, durations, nanoseconds. */

import { usage } from './failure.ts'

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']

/** `1073741824` → `1GiB`, `1536` → `1.5KiB`; at most two decimals. */
export function formatBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024
    unit++
  }
  return `${Number(value.toFixed(2))}${UNITS[unit]}`
}

/** Nanoseconds as `850ns`, `12.5us`, `3.1ms` or `2.4s`. */
export function formatNanoseconds(ns: number): string {
  if (ns < 1_000) return `${Math.round(ns)}ns`
  if (ns < 1_000_000) return `${Number((ns / 1_000).toFixed(1))}us`
  if (ns < 1_000_000_000) return `${Number((ns / 1_000_000).toFixed(1))}ms`
  return `${Number((ns / 1_000_000_000).toFixed(2))}s`
}

const DURATION = /^(\d+(?:\.\d+)?)(ms|s|m)?$/
const DURATION_MS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000 }

/** A day. Timers of Node end at once beyond 24.8 of them. */
export const LONGEST_TIMEOUT_MS = 24 * 60 * 60_000

/** `500ms`, `20s`, `1m`; a bare number is seconds. At most a day. */
export function parseDurationMs(text: string, flag: string): number {
  const match = DURATION.exec(text)
  const ms = match === null ? 0 : Math.round(Number(match[1]) * (DURATION_MS[match[2] ?? 's'] ?? 0))
  if (ms <= 0) throw usage(`${flag} ${text} is not a duration`, 'Write it as 500ms, 20s or 1m.')
  if (ms > LONGEST_TIMEOUT_MS)
    throw usage(`${flag} ${text} is longer than a day`, 'Write it as 500ms, 20s or 1m; a number alone is seconds.')
  return ms
}
