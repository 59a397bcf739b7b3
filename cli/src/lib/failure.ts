/**
 * Errors as this program reports them: one sentence, a hint, a stable code and the exit status that belongs to it.
 *
 * Every error of a verb ends here, whether it comes from the library, from Node, from oclif's parser or from a server
 * process (which sends its report over a channel, so a report is plain data).
 */

import { constants } from 'node:os'

/** Exit statuses: a contract with scripts. */
export const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  noDevice: 3,
  permission: 4,
  unsupported: 5,
  busy: 6,
  timedOut: 7,
} as const

export type ExitStatus = (typeof EXIT)[keyof typeof EXIT]

/** What is printed of an error, and what `--json` gives as `error`. */
export interface ErrorReport {
  code: string
  message: string
  /** What to do next; null when there is nothing useful to say. */
  hint: string | null
  /** Negative Linux errno, or null. */
  errno: number | null
  /** Kernel command or system call that failed, or null. */
  syscall: string | null
  deviceId: number | null
  exitCode: ExitStatus
}

/** An error of this program itself. */
export class Failure extends Error {
  override readonly name = 'Failure'
  readonly report: ErrorReport

  constructor(report: Pick<ErrorReport, 'code' | 'message' | 'exitCode'> & Partial<ErrorReport>, cause?: unknown) {
    super(report.message, { cause })
    const { code, message, hint = null, errno = null, syscall = null, deviceId = null, exitCode } = report
    this.report = { code, message, hint, errno, syscall, deviceId, exitCode }
  }
}

export function usage(message: string, hint: string | null = null): Failure {
  return new Failure({ code: 'ERR_UBLK_USAGE', message, hint, exitCode: EXIT.usage })
}

export function noSuchDevice(id: number, also = ''): Failure {
  return new Failure({
    code: 'ERR_UBLK_NO_DEVICE',
    message: `device ${id} does not exist${also}`,
    hint: '`ublk list` shows the devices that exist.',
    deviceId: id,
    exitCode: EXIT.noDevice,
  })
}

/**
 * A start that a stop signal ended; its name is the reason of `signal`.
 * @param recovers number of the device that was to be recovered: it is there as before; null for a new one
 */
export function interrupted(signal: AbortSignal, cause?: unknown, recovers: number | null = null): Failure {
  const message = `stopped by ${signal.reason} before the device was live`
  const hint =
    recovers === null ? 'Nothing is left behind.' : `Device ${recovers} still waits for its server: \`ublk recover ${recovers}\` serves it.`
  return new Failure({ code: 'ERR_UBLK_INTERRUPTED', message, hint, deviceId: recovers, exitCode: EXIT.failed }, cause)
}

/** Turns whatever was thrown into a report. */
export function reportOf(error: unknown): ErrorReport {
  if (error instanceof Failure) return error.report
  if (!(error instanceof Error)) return plainReport(String(error))
  if (isParseError(error)) return parseReport(error)
  const details = error as Error & Partial<Record<'code' | 'hint' | 'syscall', unknown>> & { errno?: unknown; deviceId?: unknown }
  const code = typeof details.code === 'string' ? details.code : 'ERR_UBLK_FAILED'
  const errno = typeof details.errno === 'number' ? details.errno : null
  return {
    code,
    message: firstLine(error.message) || code,
    hint: typeof details.hint === 'string' && details.hint !== '' ? details.hint : null,
    errno,
    syscall: typeof details.syscall === 'string' ? details.syscall : null,
    deviceId: typeof details.deviceId === 'number' ? details.deviceId : null,
    exitCode: exitStatusOf(code, errno),
  }
}

/** The library's codes and Node's own that have an exit status of their own; all others are 1, or go by errno. */
const EXIT_OF_CODE: Record<string, ExitStatus> = {
  ERR_INVALID_ARG_TYPE: EXIT.usage,
  ERR_INVALID_ARG_VALUE: EXIT.usage,
  ERR_OUT_OF_RANGE: EXIT.usage,
  ERR_UBLK_NO_DEVICE: EXIT.noDevice,
  ERR_UBLK_PERMISSION: EXIT.permission,
  EACCES: EXIT.permission,
  EPERM: EXIT.permission,
  ERR_UBLK_UNSUPPORTED: EXIT.unsupported,
  ERR_UBLK_DRIVER_MISSING: EXIT.unsupported,
  ERR_UBLK_IO_URING_DISABLED: EXIT.unsupported,
  ERR_UBLK_BUSY: EXIT.busy,
  ERR_UBLK_ID_IN_USE: EXIT.busy,
  ERR_UBLK_TIMEOUT: EXIT.timedOut,
  ERR_UBLK_KERNEL_STUCK: EXIT.timedOut,
}

function exitStatusOf(code: string, errno: number | null): ExitStatus {
  const status = EXIT_OF_CODE[code]
  if (status !== undefined) return status
  return errno === -constants.errno.EPERM || errno === -constants.errno.EACCES ? EXIT.permission : EXIT.failed
}

/** The lines a person sees on standard error. */
export function reportLines(report: ErrorReport): string {
  return `ublk: ${report.message}\n${report.hint === null ? '' : `hint: ${report.hint}\n`}`
}

function plainReport(message: string): ErrorReport {
  return { code: 'ERR_UBLK_FAILED', message, hint: null, errno: null, syscall: null, deviceId: null, exitCode: EXIT.failed }
}

/** oclif's own errors carry `oclif`; those of its parser also carry the whole configuration as `parse`. */
function isParseError(error: Error): boolean {
  return 'oclif' in error
}

/** The parser writes a sentence, then a list and where to find help: the sentence and what is listed are kept, on one line. */
function parseReport(error: Error): ErrorReport {
  const lines = error.message
    .split('\n')
    .map((line) => line.trim().replace(/\s+/g, ' '))
    .filter((line) => line !== '' && !/^(See more help|The following errors? occurred|Note:|Alternatively)/.test(line))
  const message = lines.join(' ').replace(/^Parsing (--\S+) Expected an integer but received: /, '$1 must be a whole number, got ')
  const hint = 'See `ublk help`, or `--help` after a verb.'
  return { ...plainReport(message.charAt(0).toLowerCase() + message.slice(1)), code: 'ERR_UBLK_USAGE', hint, exitCode: EXIT.usage }
}

export function firstLine(text: string): string {
  return text.split('\n', 1)[0] ?? ''
}
