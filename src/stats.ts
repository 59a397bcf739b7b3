/**
 * Counters and latencies of a device in public units.
 *
 * Thread: the one of the device. Counting is native, off the hot path; this only converts.
 */
import type { NativeOpStats, NativeStats } from './native.ts'
import type { OperationName } from './request.ts'

/** Latency in microseconds, from the request's arrival in the server to its commit. */
export interface LatencyStats {
  mean: number
  p50: number
  p99: number
  p999: number
  max: number
}

/** One operation since the device's last start, summed over its queues. */
export interface OperationStats {
  requests: number
  bytes: number
  /** Requests answered with an errno. */
  errors: number
  latency: LatencyStats
}

/** Counters of one device. */
export interface DeviceStats {
  operations: Record<OperationName, OperationStats>
  /** Requests that the server holds now. */
  inFlight: number
  /** `io_uring_enter` calls, and completions they brought: completions / enters is the batch size. */
  enters: number
  completions: number
  /** Of a mirror, in the order given; empty for other targets. */
  legs: LegStats[]
}

/** One leg of a mirror. */
export interface LegStats {
  path: string
  /** 'in-sync': has every acknowledged write. 'resyncing': is being brought up to date. 'failed': out of use until the mirror is opened again. */
  state: 'in-sync' | 'resyncing' | 'failed'
  /** Why it failed, else null. */
  error: string | null
  /** Bytes of the device that are done; null unless it is resyncing. */
  resyncedBytes: number | null
}

const OPERATIONS: Record<NativeOpStats['op'], OperationName> = {
  read: 'read',
  write: 'write',
  flush: 'flush',
  discard: 'discard',
  write_zeroes: 'writeZeroes',
}

export function toDeviceStats(native: NativeStats): DeviceStats {
  const operations = {} as Record<OperationName, OperationStats>
  for (const name of Object.values(OPERATIONS)) {
    operations[name] = { requests: 0, bytes: 0, errors: 0, latency: { mean: 0, p50: 0, p99: 0, p999: 0, max: 0 } }
  }
  for (const op of native.ops) operations[OPERATIONS[op.op]] = toOperationStats(op)
  return { operations, inFlight: native.inFlight, enters: native.enters, completions: native.completions, legs: native.legs }
}

function toOperationStats(op: NativeOpStats): OperationStats {
  const latency = {
    mean: op.meanNs / 1000,
    p50: op.p50Ns / 1000,
    p99: op.p99Ns / 1000,
    p999: op.p999Ns / 1000,
    max: op.maxNs / 1000,
  }
  return { requests: op.requests, bytes: op.bytes, errors: op.errors, latency }
}
