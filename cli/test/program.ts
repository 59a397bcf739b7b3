/** Runs the program as a user does, in a process of its own. */

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** The sources; in the VM, where all is emulated, the compiled program, which starts in half the time. */
export const PROGRAM = join(import.meta.dirname, '..', 'bin', process.env.UBLK_VM === undefined ? 'dev.js' : 'run.js')
export const VERBS = [
  ...['add', 'affinity', 'cleanup', 'del', 'doctor', 'features', 'info', 'list'],
  ...['quiesce', 'recover', 'resize', 'serve', 'shmem', 'stats', 'stop', 'udev'],
]

export interface Outcome {
  /** Exit status; null when a signal ended it. */
  status: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
  /** Milliseconds from the first signal sent by `RunningProgram.kill` to the end; NaN without one. */
  msAfterSignal: number
}

export interface RunOptions {
  cwd?: string
  env?: Record<string, string>
  /** Run through another program: `setpriv …`. */
  through?: string[]
  limitMs?: number
}

export interface RunningProgram {
  child: ChildProcess
  outcome: Promise<Outcome>
  /** Sends a signal to it alone. */
  kill(signal: NodeJS.Signals): void
  /** Resolves with the first line of standard output. */
  firstLine: Promise<string>
}

/** Starts `ublk ARGS…`; killed after `limitMs` (default 110 s), which shows as a signal. */
export function start(args: string[], { cwd, env = {}, through = [], limitMs = 110_000 }: RunOptions = {}): RunningProgram {
  // NODE_ENV is what ava sets; a user has none.
  const { NODE_ENV: _, ...inherited } = process.env
  const [command = '', ...rest] = [...through, process.execPath, PROGRAM, ...args]
  const child = spawn(command, rest, { cwd, env: { ...inherited, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs)
  const text = { stdout: '', stderr: '' }
  let signalledAt = Number.NaN
  let firstLine: (line: string) => void
  const line = new Promise<string>((resolve) => {
    firstLine = resolve
  })
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    text.stdout += chunk
    if (text.stdout.includes('\n')) firstLine(text.stdout.split('\n', 1)[0] ?? '')
  })
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    text.stderr += chunk
  })
  const outcome = new Promise<Outcome>((resolve, reject) => {
    child.once('error', reject)
    let msAfterSignal = Number.NaN
    child.once('exit', () => {
      msAfterSignal = performance.now() - signalledAt
    })
    child.once('close', (status, signal) => {
      clearTimeout(timer)
      firstLine(text.stdout)
      resolve({ status, signal, ...text, msAfterSignal })
    })
  })
  const kill = (signal: NodeJS.Signals): void => {
    signalledAt = performance.now()
    child.kill(signal)
  }
  return { child, outcome, kill, firstLine: line }
}

/** Runs `ublk ARGS…` to its end. */
export function ublk(args: string[], options?: RunOptions): Promise<Outcome> {
  return start(args, options).outcome
}

/** The `error` of `--json` output, which must be one JSON value and nothing else. */
export function errorOf({ stdout }: Outcome): {
  code: string
  message: string
  hint: string | null
  exitCode: number
  [detail: string]: unknown
} {
  return JSON.parse(stdout).error
}

/** A directory of its own for a test, with files in it. */
export function temporaryDirectory(files: Record<string, string> = {}): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'ublk-cli-'))
  for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), text)
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}
