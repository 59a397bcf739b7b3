/**
 * What the kernel counts about the processes that serve a device: CPU time, context switches, memory.
 *
 * The driver does its part of a request in the server's threads, so their CPU time is the whole price of serving.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

/** Processes that have `path` open: the servers of a ublk device, whoever made it. */
export function openersOf(path: string): number[] {
  return numbersIn('/proc').filter((pid) => {
    if (pid === process.pid) return false
    const descriptors = `/proc/${pid}/fd`
    return ignoreGone(() => readdirSync(descriptors), []).some(
      (descriptor) => ignoreGone(() => readlinkSync(`${descriptors}/${descriptor}`), '') === path,
    )
  })
}

/** Counters by thread; the difference of two readings is what happened between them. */
export type ThreadCounters = Map<number, number>

/** Nanoseconds that each thread has run. */
export function cpuTime(pids: number[]): ThreadCounters {
  return eachThread(pids, (thread) => Number(readFileSync(`${thread}/schedstat`, 'utf8').split(' ')[0]))
}

/** Times that each thread has given up the CPU: a thread that never wakes up counts none. */
export function contextSwitches(pids: number[]): ThreadCounters {
  return eachThread(pids, (thread) => {
    const status = readFileSync(`${thread}/status`, 'utf8')
    const counts = [...status.matchAll(/^(?:non)?voluntary_ctxt_switches:\s*(\d+)$/gm)]
    return counts.reduce((sum, [, count]) => sum + Number(count), 0)
  })
}

/** Sum of the growth of all threads that are there at the end. Threads that were born in between count from 0. */
export function growth(before: ThreadCounters, after: ThreadCounters): number {
  let sum = 0
  for (const [thread, count] of after) sum += count - (before.get(thread) ?? 0)
  return sum
}

/** Resident memory of a process in bytes. */
export function residentBytes(pid: number): number {
  const [, kibibytes] = /^VmRSS:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kibibytes) * 1024
}

function eachThread(pids: number[], read: (thread: string) => number): ThreadCounters {
  const counters: ThreadCounters = new Map()
  for (const pid of pids) {
    for (const thread of numbersIn(`/proc/${pid}/task`)) {
      const count = ignoreGone(() => read(`/proc/${pid}/task/${thread}`), null)
      if (count !== null) counters.set(thread, count)
    }
  }
  return counters
}

function numbersIn(directory: string): number[] {
  return readdirSync(directory)
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
}

/** Threads and processes may end while they are looked at. */
function ignoreGone<T, U>(read: () => T, otherwise: U): T | U {
  try {
    return read()
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ESRCH') return otherwise
    throw error
  }
}
