/** What one boot measured: written by bench/measure.ts in the guest, read by bench/report.ts on the host. */
import type { Start } from './figures.ts'
import type { Job } from './fio.ts'

/** One fio job on one contestant. */
export interface Run {
  contestant: string
  job: Job
  round: number
  requests: number
  rate: number
  bytesPerSecond: number
  /** CPU time of all threads of the server; null when the kernel serves. */
  serverNanosecondsPerRequest: number | null
  /** `io_uring_enter` calls of the server, where it counts them. */
  entersPerRequest: number | null
}

export interface Idle {
  contestant: string
  /** Context switches of all threads of the server. */
  wakeUpsPerSecond: number
  residentBytes: number
}

/** Milliseconds of each start of a program. */
export type Starts = Record<Start, number[]>

export interface Results {
  environment: Record<'kernel' | 'node' | 'fio' | 'seconds' | 'rounds' | 'size', string>
  /** Contestants that could not take part, and why. */
  missing: Record<string, string>
  runs: Run[]
  /** Milliseconds of each creation in one process. */
  createToLive: number[]
  starts: Starts | null
  idle: Idle[]
}
