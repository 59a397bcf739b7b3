/** Identity of processes: a pid alone may be another process by now, a pid and its start time is one for good. */

import { readFileSync } from 'node:fs'

export interface ProcessIdentity {
  pid: number
  /** Field 22 of /proc/PID/stat: start in clock ticks since boot. */
  startTicks: number
}

/** Start time of a running process, or null when there is none (a zombie has ended). */
export function startTicksOf(pid: number): number | null {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  } catch {
    return null
  }
  // Field 2 is the name in brackets and may hold blanks and brackets: count from the last one.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields[0] === 'Z' || fields[0] === 'X' ? null : Number(fields[19])
}

export function isRunning(identity: ProcessIdentity): boolean {
  return startTicksOf(identity.pid) === identity.startTicks
}

export function isSameProcess(one: ProcessIdentity, other: ProcessIdentity): boolean {
  return one.pid === other.pid && one.startTicks === other.startTicks
}

export function ownIdentity(): ProcessIdentity {
  return { pid: process.pid, startTicks: startTicksOf(process.pid) ?? 0 }
}

/** Waits until the process has ended. Returns false when it still runs after `limitMs`. */
export async function waitForEnd(identity: ProcessIdentity, limitMs: number): Promise<boolean> {
  const deadline = performance.now() + limitMs
  while (isRunning(identity)) {
    if (performance.now() >= deadline) return false
    // No event tells of the end of a process that is not our child; 10 ms is below what a person notices.
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return true
}
