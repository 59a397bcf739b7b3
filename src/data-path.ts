/**
 * How a device's requests travel: the buffer mode, the threads, and the forms of the commands. Their names, rules and defaults.
 *
 * Thread: any.
 */
import { invalidType, invalidValue, outOfRange } from './errors.ts'
import type { DeviceSpec } from './native.ts'
import { checkSharedMemory, type SharedMemory } from './shared-memory.ts'

/**
 * How data moves between the pages of a request and the target.
 * - `auto`: the fastest that kernel and target have;
 * - `copy`: the kernel copies to and from a buffer per request;
 * - `get-data`: the same, to a place that is named request by request (in memory's own store, where that is the target);
 * - `user-copy`: the server copies, by `pread` and `pwrite` (Linux 6.5);
 * - `zero-copy`: the server registers the pages and uses them as they are (6.15);
 * - `auto-zero-copy`: the driver registers them (6.16);
 * - `shmem`: as `copy`, but data in memory that the device's user shares with the server stays there (7.1): see `sharedMemory`.
 *
 * With `nullTarget` the zero-copy ones show a reader whatever was in its memory before: for measuring alone.
 */
export type DataPath = 'auto' | 'copy' | 'get-data' | 'user-copy' | 'zero-copy' | 'auto-zero-copy' | 'shmem'

export const DATA_PATHS: readonly DataPath[] = ['auto', 'copy', 'get-data', 'user-copy', 'zero-copy', 'auto-zero-copy', 'shmem']

/** Options of a device about the way of its requests. All but `dataPath`'s `copy` and `partitionScan` are for native targets. */
export interface QueueOptions {
  /** How data moves. Default 'auto'. One that the kernel lacks is an error that names the release that has it. */
  dataPath?: DataPath
  /**
   * Where the data path is `auto-zero-copy`: requests whose pages the driver cannot register, for want of memory, are registered by the
   * server; with false they fail. 'always' makes the driver fail each time, to test just that. Default true.
   */
  zeroCopyFallback?: boolean | 'always'
  /**
   * A file of memory, usually of hugetlbfs (/dev/hugepages): programs that map it, and read and write the device with O_DIRECT from there,
   * need no copy. Makes `dataPath` 'shmem'. With `readOnly` it is mapped for reading, and serves writes to the device alone. Of several
   * files an array. `device.shareMemory` and `device.unshareMemory` change them while the device is used (docs/request-memory.md).
   */
  sharedMemory?: SharedMemory | SharedMemory[]
  /** Threads that serve, 1 to 4096; default one per queue. Not more than `queues`, unless `perIo`. */
  threads?: number
  /** Each thread serves some requests of every queue, so that more threads than queues can work (Linux 6.16). Default false. */
  perIo?: boolean
  /** Requests come and go many at a time (Linux 7.0): not with 'get-data', nor with `perIo`. Default false. */
  batch?: boolean
  /** Use the ring's table of registered files. Default true. */
  fixedFiles?: boolean
  /**
   * The threads that serve take the CPU from other programs when a request comes, as far as the scheduler lets them. False (SCHED_BATCH): they
   * wait until it is free, or the other's time is over (up to 3 ms): more requests at a time, so higher rates, where the programs that use
   * the device share its CPUs; slow answers beside a program that computes there. Default true, but false where nobody waits for that: for
   * `nullTarget` and `memory` with a queue for each CPU, served on it.
   */
  preempt?: boolean
  /** Let the kernel look for partitions when the device starts. Default true; false needs Linux 7.0. */
  partitionScan?: boolean
}

/** The same, checked. */
export type CheckedQueueOptions = Pick<
  DeviceSpec,
  'dataPath' | 'zeroCopyFallback' | 'sharedMemory' | 'threads' | 'perIo' | 'batch' | 'fixedFiles' | 'preempt' | 'partitionScan'
>

export const QUEUE_OPTION_NAMES = [
  'dataPath',
  'zeroCopyFallback',
  'sharedMemory',
  'threads',
  'perIo',
  'batch',
  'fixedFiles',
  'preempt',
  'partitionScan',
] as const

/** As many as a device can have queues. */
const MAX_THREADS = 4096

export function checkQueueOptions(options: QueueOptions, queues: number): CheckedQueueOptions {
  const { dataPath = 'auto', threads, perIo = false, batch = false, fixedFiles = true, preempt, partitionScan = true } = options
  if (typeof dataPath !== 'string') throw invalidType('dataPath', oneOf(DATA_PATHS), dataPath)
  if (!DATA_PATHS.includes(dataPath)) throw invalidValue('dataPath', oneOf(DATA_PATHS), dataPath)
  for (const [name, value] of Object.entries({ perIo, batch, fixedFiles, preempt, partitionScan })) {
    if (value !== undefined && typeof value !== 'boolean') throw invalidType(name, 'a boolean', value)
  }
  if (batch && dataPath === 'get-data')
    throw invalidValue('batch', "false with dataPath 'get-data' (the driver has no batches for it)", batch)
  if (batch && perIo) throw invalidValue('batch', 'false with perIo (a batch is of one queue)', batch)
  const shared = checkSharedMemory(options.sharedMemory, dataPath)
  return {
    ...shared,
    zeroCopyFallback: checkFallback(options.zeroCopyFallback, dataPath),
    threads: threads === undefined ? null : checkThreads(threads, queues, perIo),
    perIo,
    batch,
    fixedFiles,
    preempt: preempt ?? null,
    partitionScan,
  }
}

/** A backend in JavaScript has its own threads, and its data must be in its memory. */
export function checkBackendPath(options: CheckedQueueOptions): void {
  const { dataPath, zeroCopyFallback, threads, perIo, batch, fixedFiles, preempt } = options
  if (dataPath !== 'auto' && dataPath !== 'copy') {
    throw invalidValue('dataPath', "'auto' or 'copy' for a JavaScript backend (its data must be in its memory)", dataPath)
  }
  const rule = 'left out for a JavaScript backend (it has one thread per queue)'
  if (threads !== null) throw invalidValue('threads', rule, threads)
  if (perIo) throw invalidValue('perIo', rule, perIo)
  if (batch) throw invalidValue('batch', rule, batch)
  if (!fixedFiles) throw invalidValue('fixedFiles', rule, fixedFiles)
  if (preempt === false) throw invalidValue('preempt', rule, preempt)
  if (zeroCopyFallback === 'always') throw invalidValue('zeroCopyFallback', rule, zeroCopyFallback)
}

function checkFallback(value: QueueOptions['zeroCopyFallback'], dataPath: DataPath): CheckedQueueOptions['zeroCopyFallback'] {
  if (value === undefined) return 'on'
  if (value !== 'always' && typeof value !== 'boolean') throw invalidType('zeroCopyFallback', "a boolean or 'always'", value)
  if (value === false) return 'off'
  if (dataPath !== 'auto' && dataPath !== 'auto-zero-copy')
    throw invalidValue('zeroCopyFallback', "left out, or false, unless dataPath is 'auto' or 'auto-zero-copy'", value)
  return value === true ? 'on' : value
}

function checkThreads(value: number, queues: number, perIo: boolean): number {
  if (typeof value !== 'number') throw invalidType('threads', 'a number', value)
  const most = perIo ? MAX_THREADS : queues
  if (!Number.isInteger(value) || value < 1 || value > most) {
    throw outOfRange('threads', `a whole number from 1 to ${most}${perIo ? '' : ', the number of queues, unless perIo is set'}`, value)
  }
  return value
}

function oneOf(values: readonly string[]): string {
  return `one of '${values.join("', '")}'`
}
