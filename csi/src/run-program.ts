/**
 * Programs of the machine: an array of arguments, no shell, a limit of time, and the caller's abort.
 */
import { execFile } from 'node:child_process'
import { deadlineExceeded, failedPrecondition } from './errors.ts'

export interface ProgramResult {
  /** Exit status. */
  status: number
  stdout: Buffer
  stderr: string
}

export interface ProgramOptions {
  signal?: AbortSignal
  /** Default a minute. */
  limitMs?: number
  /** Exit statuses that are an answer; default 0 alone. Others throw a `ProgramError`. */
  statuses?: readonly number[]
}

/** A program that ended with a status that is no answer, or by a signal. */
export class ProgramError extends Error {
  readonly status: number | null
  readonly stderr: string

  constructor(program: string, args: readonly string[], status: number | null, ending: string, stderr: string) {
    super(`${[program, ...args].join(' ')} ${ending}${stderr === '' ? '' : `: ${stderr}`}`)
    this.status = status
    this.stderr = stderr
  }
}

const DEFAULT_LIMIT_MS = 60_000
/** How much a program may print. */
const MAX_OUTPUT_BYTES = 16 << 20
/** Of stderr, what a message has room for. */
const MAX_STDERR = 600

export type RunProgram = typeof runProgram

export function runProgram(program: string, args: readonly string[], options: ProgramOptions = {}): Promise<ProgramResult> {
  const { signal, limitMs = DEFAULT_LIMIT_MS, statuses = [0] } = options
  return new Promise((resolve, reject) => {
    const settings = {
      encoding: 'buffer',
      timeout: limitMs,
      killSignal: 'SIGKILL',
      maxBuffer: MAX_OUTPUT_BYTES,
      env: environment(),
    } as const
    execFile(program, args, { ...settings, ...(signal === undefined ? {} : { signal }) }, (error, stdout, stderrBytes) => {
      const stderr = stderrBytes.toString('utf8').trim().slice(0, MAX_STDERR)
      if (error === null) return resolve({ status: 0, stdout, stderr })
      if (signal?.aborted) return reject(signal.reason)
      const { code, killed } = error
      if (typeof code === 'number') {
        if (statuses.includes(code)) return resolve({ status: code, stdout, stderr })
        return reject(new ProgramError(program, args, code, `ended with status ${code}`, stderr))
      }
      if ((code as unknown) === 'ENOENT')
        return reject(failedPrecondition(`the program ${program} is missing on this node; install it`, { cause: error }))
      if (killed) return reject(deadlineExceeded(`${program} did not end within ${limitMs} ms and was killed; is its device alive?`))
      return reject(new ProgramError(program, args, null, error.signal ? `was ended by ${error.signal}` : error.message, stderr))
    })
  })
}

/** Messages in English, whatever the machine speaks: some are read. */
const environment = (): NodeJS.ProcessEnv => ({ PATH: process.env.PATH ?? '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' })
