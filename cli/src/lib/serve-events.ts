/** What `ublk serve` tells: one JSON value a line under `--json`, else a sentence. */

import type { ErrorReport } from './failure.ts'

export type ServeEvent =
  /** `ms`: from the time at which it was seen that there was no server. */
  | { event: 'started' | 'recovered'; name: string; id: number; path: string; pid: number; ms: number }
  | { event: 'adopted'; name: string; id: number; path: string; pid: number }
  | { event: 'gone'; name: string; id: number; reason: string }
  | { event: 'failed'; name: string; tries: number; error: Pick<ErrorReport, 'code' | 'message' | 'hint'> }
  /** `rarely`: all tries are used up. */
  | { event: 'backoff'; name: string; tries: number; ms: number; rarely: boolean }
  /** Of a server, by its own clock (ISO 8601): see `ublk stats`. */
  | { event: 'warning'; name: string; id: number; at: string; message: string }
  | { event: 'in-use'; name: string; id: number; wish: 'remove' | 'replace' }
  | { event: 'removed'; name: string; id: number }
  | { event: 'resized'; name: string; id: number; size: string }
  /** `devices`: how many are live. */
  | { event: 'ready'; devices: number; givenUp: string[] }
  | { event: 'reloaded'; added: string[]; changed: string[]; removed: string[] }
  | { event: 'reload-failed'; error: Pick<ErrorReport, 'code' | 'message' | 'hint'> }
  | { event: 'stopping'; signal: string; leaves: boolean }

export function sentenceOf(event: ServeEvent): string {
  const what = sentence(event)
  return 'name' in event ? `${event.name}: ${what}` : what
}

function sentence(event: ServeEvent): string {
  switch (event.event) {
    case 'started':
    case 'recovered':
      return `${event.event} ${event.path} in ${event.ms} ms, process ${event.pid} serves it`
    case 'adopted':
      return `${event.path} is there, process ${event.pid} serves it`
    case 'gone':
      return event.reason
    case 'failed':
      return withHint(event.error)
    case 'backoff':
      return `${event.rarely ? `given up after ${event.tries} tries; ` : ''}the next try is in ${event.ms} ms`
    case 'warning':
      return `warning, ${event.at}: ${event.message}`
    case 'in-use':
      return `/dev/ublkb${event.id} is in use: FILE has it ${event.wish}d when nobody has it open`
    case 'removed':
      return `/dev/ublkb${event.id} is removed`
    case 'resized':
      return `/dev/ublkb${event.id} has ${event.size} now`
    case 'ready':
      return `ready: ${event.devices} live${event.givenUp.length === 0 ? '' : `, given up: ${event.givenUp.join(', ')}`}`
    case 'reloaded':
      return `read FILE again: ${event.added.length} added, ${event.changed.length} changed, ${event.removed.length} removed`
    case 'reload-failed':
      return `FILE is not taken into use: ${withHint(event.error)}`
    case 'stopping':
      return `${event.signal}: ends, and ${event.leaves ? 'leaves the devices up' : 'stops the devices'}`
  }
}

function withHint({ message, hint }: Pick<ErrorReport, 'message' | 'hint'>): string {
  return hint === null ? message : `${message} (${hint})`
}
