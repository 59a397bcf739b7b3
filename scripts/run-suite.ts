/** Runs one suite: its output into a log of its own, its end within a limit, its counts from what it printed. */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readFileSync, renameSync } from 'node:fs'
import path from 'node:path'
import { type Counts, countsSoFar, judge, readCounts } from './counts.ts'
import type { Suite } from './suites.ts'

export const root = path.resolve(import.meta.dirname, '..')
const logDirectory = 'target/test-logs'
/** Time between SIGTERM and SIGKILL: enough for vm/run to end its VM. */
const killGraceMs = 10_000
/** With less of its limit left than this share a suite is not begun: most take a third of it. */
const leastShare = 1 / 4
/** A kernel dies of this by the emulator alone: docs/investigations/emulated-int3. */
const emulatorsFault = /^ *vm: .*Oops: int3/m

/** `leftMs`: time until the whole run has to end. */
export function hasTime(suite: Suite, leftMs: number): boolean {
  return leftMs >= suite.timeoutSeconds * 1000 * leastShare
}

export interface Outcome {
  suite: Suite
  counts: Counts
  /** Why it failed, for people; empty when it did not. */
  reason: string
  /** What else is to be told; empty when nothing is. */
  remark: string
  /** The time of the whole run ended it. */
  isCutOff: boolean
  /** From the checkout's root. */
  logPath: string
  seconds: number
}

const running = new Set<ChildProcess>()
let isEnding = false

/** Ends what runs; nothing is begun any more. */
export function endSuites(): void {
  isEnding = true
  for (const child of running) end(child)
}

/** With everything it started, which may outlive it: each runs in a process group of its own. */
function end({ pid }: ChildProcess): void {
  const send = (signal: NodeJS.Signals): void => {
    try {
      if (pid !== undefined) process.kill(-pid, signal)
    } catch {
      // The whole group has ended.
    }
  }
  send('SIGTERM')
  setTimeout(send, killGraceMs, 'SIGKILL').unref()
}

/** Resolves with why the command ended badly, or with an empty string. */
function runCommand(command: string[], logDescriptor: number, limitMs: number): Promise<{ badEnd: string; isTimedOut: boolean }> {
  return new Promise((resolve) => {
    const [program, ...parameters] = command as [string, ...string[]]
    const child = spawn(program, parameters, { cwd: root, detached: true, stdio: ['ignore', logDescriptor, logDescriptor] })
    running.add(child)
    let isTimedOut = false
    const limit = setTimeout(() => {
      isTimedOut = true
      end(child)
    }, limitMs)
    const ended = (): void => {
      clearTimeout(limit)
      running.delete(child)
    }
    child.once('error', (error) => {
      ended()
      resolve({ badEnd: `could not be started: ${error.message}`, isTimedOut })
    })
    child.once('exit', (status, signal) => {
      ended()
      if (isTimedOut) resolve({ badEnd: `still running after ${Math.round(limitMs / 1000)} s`, isTimedOut })
      else if (signal !== null) resolve({ badEnd: `ended by ${signal}`, isTimedOut })
      else resolve({ badEnd: status === 0 ? '' : `exit status ${status}`, isTimedOut })
    })
  })
}

async function runOnce(suite: Suite, leftMs: number, logPath: string): Promise<Outcome> {
  const logDescriptor = openSync(path.join(root, logPath), 'w')
  const started = performance.now()
  const limitMs = suite.timeoutSeconds * 1000
  const { badEnd, isTimedOut } = await runCommand(suite.command, logDescriptor, Math.min(limitMs, leftMs))
  closeSync(logDescriptor)
  const seconds = (performance.now() - started) / 1000

  const output = readFileSync(path.join(root, logPath), 'utf8')
  if (isTimedOut && leftMs < limitMs) {
    // Its own limit would have let it go on: it has not failed unless one of its tests has.
    const counts = countsSoFar(output, suite.counts)
    const reason = counts.failed > 0 ? `${counts.failed} failed` : ''
    return { suite, counts, reason, remark: 'cut off: the time was over', isCutOff: true, logPath, seconds }
  }
  const told = readCounts(output, suite.counts)
  const counts = judge(told, badEnd === '')
  const reason = badEnd || (told.failed > 0 ? `${told.failed} failed` : counts.failed > 0 ? 'ran no test' : '')
  return { suite, counts, reason, remark: '', isCutOff: false, logPath, seconds }
}

/** `leftMs`: time until the whole run has to end, in which the suite is cut off. */
export async function runSuite(suite: Suite, leftMs = Number.POSITIVE_INFINITY): Promise<Outcome> {
  mkdirSync(path.join(root, logDirectory), { recursive: true })
  const name = suite.name.replaceAll(/[^\w.-]+/g, '-')
  const logPath = path.join(logDirectory, `${name}.log`)
  const first = await runOnce(suite, leftMs, logPath)
  const log = path.join(root, logPath)
  const output = readFileSync(log, 'utf8')
  const stillLeftMs = leftMs - first.seconds * 1000
  // A test that failed by itself before, or in another machine of the suite, stays failed.
  const isTheirs = first.reason === '' || !emulatorsFault.test(output) || countsSoFar(output, suite.counts).failed > 0
  if (isTheirs || isEnding || !hasTime(suite, stillLeftMs)) return first
  const kept = path.join(logDirectory, `${name}.int3.log`)
  renameSync(log, path.join(root, kept))
  const second = await runOnce(suite, stillLeftMs, logPath)
  const remark = [second.remark, `once more: the emulator crashed the kernel (${kept})`].filter((part) => part !== '').join('; ')
  return { ...second, remark, seconds: first.seconds + second.seconds }
}
