/** The flags of `add fault`: what they are called, and the library's options that they become. */

import * as Flags from '@oclif/core/flags'
import type { FaultOptions } from 'ublk'
import { usage } from './failure.ts'
import { parseDurationMs } from './units.ts'

export const faultFlags = {
  over: Flags.string({ helpValue: 'TARGET', multiple: true, summary: 'for fault: the target below it and its paths, up to the next flag' }),
  delay: Flags.string({ helpValue: 'TIME', summary: 'for fault: every request waits this long first, such as 10ms' }),
  'error-rate': Flags.string({
    helpValue: 'RATE',
    summary: 'for fault: share of requests that fail, 0 to 1; default 1 with --error-ops or --error-range',
  }),
  'error-ops': Flags.string({
    helpValue: 'OPS',
    summary: 'for fault: operations that fail, of read,write,flush,discard,write-zeroes; default all',
  }),
  'error-range': Flags.string({ helpValue: 'FROM-TO', summary: 'for fault: bytes that a request must touch to fail, such as 1M-2M' }),
  'torn-write-rate': Flags.string({
    helpValue: 'RATE',
    summary: 'for fault: share of writes that write their first blocks only, and fail',
  }),
  seed: Flags.integer({ helpValue: 'N', summary: 'for fault: which requests are hit; the same N hits the same ones; default 0' }),
  'die-at': Flags.option({
    options: ['fetch', 'commit'] as const,
    summary: 'for fault: the server kills itself when a request has come, or before it is answered',
  })(),
  'die-after': Flags.integer({ helpValue: 'N', summary: 'for fault: at the N-th request that is no read; default 1' }),
}

/** The values of `faultFlags`, as parsed. */
export interface FaultFlags {
  over?: string[] | undefined
  delay?: string | undefined
  'error-rate'?: string | undefined
  'error-ops'?: string | undefined
  'error-range'?: string | undefined
  'torn-write-rate'?: string | undefined
  seed?: number | undefined
  'die-at'?: 'fetch' | 'commit' | undefined
  'die-after'?: number | undefined
}

/** What the flags ask for. Ranges of numbers are the library's to check. */
export function parseFaults(flags: FaultFlags): FaultOptions {
  const { delay, seed, 'error-ops': ops, 'error-range': range, 'die-at': dieAt, 'die-after': dieAfter } = flags
  const { 'error-rate': errorRate, 'torn-write-rate': tornWriteRate } = flags
  if (dieAfter !== undefined && dieAt === undefined) throw usage('--die-after needs --die-at fetch or --die-at commit')
  return {
    ...(delay !== undefined && { delayMs: parseDurationMs(delay, '--delay') }),
    ...(errorRate !== undefined && { errorRate: parseRate(errorRate, '--error-rate') }),
    ...(ops !== undefined && { errorOps: ops.split(',').map(parseOperation) }),
    ...(range !== undefined && { errorRange: parseRange(range) }),
    ...(tornWriteRate !== undefined && { tornWriteRate: parseRate(tornWriteRate, '--torn-write-rate') }),
    ...(seed !== undefined && { seed }),
    ...(dieAt !== undefined && { dieAt }),
    ...(dieAfter !== undefined && { dieAfter }),
  }
}

/** The first of these flags that was given. */
export function firstFaultFlag(flags: FaultFlags): string | undefined {
  return Object.keys(faultFlags).find((name) => flags[name as keyof FaultFlags] !== undefined)
}

function parseRate(text: string, flag: string): number {
  const rate = /^\d*\.?\d+$/.test(text) ? Number(text) : Number.NaN
  if (!(rate >= 0 && rate <= 1)) throw usage(`${flag} ${text} is not a share from 0 to 1`)
  return rate
}

const OPERATIONS = { read: 'read', write: 'write', flush: 'flush', discard: 'discard', 'write-zeroes': 'writeZeroes' } as const

function parseOperation(name: string): (typeof OPERATIONS)[keyof typeof OPERATIONS] {
  if (Object.hasOwn(OPERATIONS, name)) return OPERATIONS[name as keyof typeof OPERATIONS]
  throw usage(`--error-ops: there is no operation ${JSON.stringify(name)}`, `They are ${Object.keys(OPERATIONS).join(', ')}.`)
}

function parseRange(text: string): { begin: string; end: string } {
  const [begin, end, more] = text.split('-')
  if (begin && end && more === undefined) return { begin, end }
  throw usage(`--error-range ${text} is not of the form FROM-TO`, 'Example: `--error-range 1M-2M`.')
}
