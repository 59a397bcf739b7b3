/**
 * Every error the library makes: `UblkError` with a stable code, and the plain errors for misuse.
 *
 * Thread: any. Codes are part of the API; messages may improve in any release.
 */
import { constants } from 'node:os'
import { inspect } from 'node:util'
import type { NativeError, Outcome } from './native.ts'

/** Stable error codes and what each one means. */
export const ERROR_CODES = {
  ERR_UBLK_UNSUPPORTED: 'this platform, or this installation, cannot serve ublk devices',
  ERR_UBLK_DRIVER_MISSING: 'the kernel module ublk_drv is not loaded, or not there',
  ERR_UBLK_PERMISSION: 'the process lacks the rights for the control or the character device',
  ERR_UBLK_IO_URING_DISABLED: 'io_uring is switched off by a sysctl or a seccomp filter',
  ERR_UBLK_LIMIT: 'the kernel serves as many ublk devices as it allows (parameter ublks_max)',
  ERR_UBLK_ID_IN_USE: 'the wanted device number is taken',
  ERR_UBLK_NO_DEVICE: 'there is no device with this number',
  ERR_UBLK_BUSY: 'the device is open, mounted, or held by another server',
  ERR_UBLK_TIMEOUT: 'something did not happen in its time',
  ERR_UBLK_KERNEL_STUCK: 'a kernel command did not return in its time',
  ERR_UBLK_INVALID_STATE: 'the call does not fit the state of the device',
  ERR_UBLK_BACKEND: 'a backend module cannot be loaded, its worker died, or a handler failed',
  ERR_UBLK_INVALID_OPTION: 'options of a device do not fit each other, or its target',
  ERR_UBLK_FILE: 'the file of a file target cannot be used',
  ERR_UBLK_NBD: 'an NBD server cannot be reached, or refuses what is asked of it',
  ERR_UBLK_NBD_TLS: 'an NBD server is not who it should be, or one of the two wants TLS and the other does not',
  ERR_UBLK_NO_MEMORY: 'not enough memory for the buffers of the device',
  ERR_UBLK_KERNEL: 'any other refusal of the kernel',
} as const

/** One of the stable codes of `ERROR_CODES`. */
export type UblkErrorCode = keyof typeof ERROR_CODES

/** What a `UblkError` carries beside its code; everything but the message is optional. */
export interface UblkErrorDetails {
  message: string
  /** What to do next, as a sentence. */
  hint?: string
  /** Negative Linux errno, such as -16 for EBUSY. */
  errno?: number | null
  /** Kernel command or system call that failed, such as `START_DEV`. */
  syscall?: string | null
  deviceId?: number | null
  cause?: unknown
}

/** An expected failure: of the kernel, the machine, a file, or a backend. Branch on `code`, show `message` and `hint`. */
export class UblkError extends Error {
  readonly code: UblkErrorCode
  /** What to do next; empty when there is nothing to say. */
  readonly hint: string
  /** Negative Linux errno, when the kernel gave one. */
  readonly errno: number | undefined
  /** Kernel command or system call that failed. */
  readonly syscall: string | undefined
  /** N of /dev/ublkbN, when the error belongs to a device. */
  readonly deviceId: number | undefined

  constructor(code: UblkErrorCode, details: UblkErrorDetails) {
    super(details.message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.hint = details.hint ?? ''
    this.errno = details.errno ?? undefined
    this.syscall = details.syscall ?? undefined
    this.deviceId = details.deviceId ?? undefined
  }

  static {
    // On the prototype, so that the name is not an own property of every error printed.
    Object.defineProperty(UblkError.prototype, 'name', { value: 'UblkError', writable: true, configurable: true })
  }
}

/** The `UblkError` for a failure that the addon reported. */
export function fromNative(error: NativeError, cause?: unknown): UblkError {
  const code = Object.hasOwn(ERROR_CODES, error.code) ? (error.code as UblkErrorCode) : 'ERR_UBLK_KERNEL'
  return new UblkError(code, {
    message: error.message,
    hint: error.hint,
    errno: error.errno,
    syscall: error.syscall,
    deviceId: error.deviceId,
    cause,
  })
}

/** The value of a native answer, or its error thrown. */
export function unwrap<T>(outcome: Outcome<T>): T {
  if (outcome.error !== null) throw fromNative(outcome.error)
  return outcome.value as T
}

type MisuseCode = 'ERR_INVALID_ARG_TYPE' | 'ERR_INVALID_ARG_VALUE' | 'ERR_OUT_OF_RANGE'

function misuse<E extends Error>(error: E, code: MisuseCode): E & { code: string } {
  return Object.assign(error, { code: code as string })
}

/** TypeError: option `name` has a value of the wrong type. */
export function invalidType(name: string, rule: string, value: unknown): TypeError {
  return misuse(new TypeError(mustBe(name, rule, value)), 'ERR_INVALID_ARG_TYPE')
}

/** TypeError: option `name` has the right type and a value that cannot be meant. */
export function invalidValue(name: string, rule: string, value: unknown): TypeError {
  return misuse(new TypeError(mustBe(name, rule, value)), 'ERR_INVALID_ARG_VALUE')
}

/** RangeError: option `name` is a number outside its range. */
export function outOfRange(name: string, rule: string, value: unknown): RangeError {
  return misuse(new RangeError(mustBe(name, rule, value)), 'ERR_OUT_OF_RANGE')
}

/** The error of an aborted call: name `AbortError`, code `ABORT_ERR`, cause the signal's reason. */
export function abortError(signal: AbortSignal, what: string): Error {
  const error = new Error(`${what} was aborted`, { cause: signal.reason })
  return Object.defineProperty(Object.assign(error, { code: 'ABORT_ERR' }), 'name', { value: 'AbortError' })
}

/** TypeError: `name` is not one of the options. */
export function unknownOption(name: string, known: Iterable<string>): TypeError {
  return misuse(new TypeError(`unknown option ${show(name)}; the options are ${[...known].join(', ')}`), 'ERR_INVALID_ARG_VALUE')
}

/** The value and the rule; of a value that was left out, the rule alone. */
function mustBe(name: string, rule: string, value: unknown): string {
  return `${name} must be ${rule}${value === undefined ? '' : `, got ${show(value)}`}`
}

function show(value: unknown): string {
  if (typeof value === 'string') return `'${value.length > 60 ? `${value.slice(0, 60)}…` : value}'`
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value === 'function') return `function ${value.name}`
  if (value === null || typeof value !== 'object') return String(value)
  return Array.isArray(value) ? 'an array' : `an instance of ${value.constructor?.name ?? 'Object'}`
}

/** The errno that libuv adds above Linux's own begin far higher; Linux ends at EHWPOISON, 133. */
const LAST_LINUX_ERRNO = 133

/**
 * The -errno that the reader or writer of the device gets for an error of a backend: its `errno`, else its `code`
 * ('ENOSPC'), else -EIO.
 */
export function errnoOf(error: unknown): number {
  try {
    const { errno, code } = Object(error) as { errno?: unknown; code?: unknown }
    if (typeof errno === 'number' && Number.isInteger(errno) && errno !== 0 && Math.abs(errno) <= LAST_LINUX_ERRNO) {
      return -Math.abs(errno)
    }
    if (typeof code === 'string' && Object.hasOwn(constants.errno, code)) {
      return -constants.errno[code as keyof typeof constants.errno]
    }
  } catch {
    // A getter of the error threw: it says nothing.
  }
  return -constants.errno.EIO
}

/** The message of whatever was thrown. Never throws itself. */
export function messageOf(error: unknown): string {
  try {
    return error instanceof Error ? error.message : inspect(error)
  } catch {
    return 'an error that cannot be shown'
  }
}
