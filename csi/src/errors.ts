/**
 * Every failure that a caller is told: a gRPC status code and a message that says what happened and what to do.
 *
 * Codes follow the error tables of the CSI specification; what is not a `CsiError` reaches the caller as INTERNAL (calls.ts).
 */
import { status } from '@grpc/grpc-js'

export class CsiError extends Error {
  /** A number of `grpc.status`. */
  readonly code: status

  constructor(code: status, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
  }

  static {
    Object.defineProperty(CsiError.prototype, 'name', { value: 'CsiError', writable: true, configurable: true })
  }
}

type Options = { cause?: unknown }

/** A field of the request is missing or cannot be meant. */
export const invalidArgument = (message: string, options?: Options): CsiError => new CsiError(status.INVALID_ARGUMENT, message, options)
export const notFound = (message: string, options?: Options): CsiError => new CsiError(status.NOT_FOUND, message, options)
/** The name is taken by something that does not fit the wish. */
export const alreadyExists = (message: string, options?: Options): CsiError => new CsiError(status.ALREADY_EXISTS, message, options)
/** No room, or no more of something. */
export const resourceExhausted = (message: string, options?: Options): CsiError => new CsiError(status.RESOURCE_EXHAUSTED, message, options)
/** Right, but not in this state: trying again is of no use until somebody has done what the message says. */
export const failedPrecondition = (message: string, options?: Options): CsiError =>
  new CsiError(status.FAILED_PRECONDITION, message, options)
/** Another call works on the same volume; also a page token that is no longer good. */
export const aborted = (message: string, options?: Options): CsiError => new CsiError(status.ABORTED, message, options)
/** Try again later. */
export const unavailable = (message: string, options?: Options): CsiError => new CsiError(status.UNAVAILABLE, message, options)
export const unauthenticated = (message: string, options?: Options): CsiError => new CsiError(status.UNAUTHENTICATED, message, options)
export const permissionDenied = (message: string, options?: Options): CsiError => new CsiError(status.PERMISSION_DENIED, message, options)
export const deadlineExceeded = (message: string, options?: Options): CsiError => new CsiError(status.DEADLINE_EXCEEDED, message, options)
export const internal = (message: string, options?: Options): CsiError => new CsiError(status.INTERNAL, message, options)
/** A disk is not what it should be. Nothing was written. */
export const dataLoss = (message: string, options?: Options): CsiError => new CsiError(status.DATA_LOSS, message, options)
export const unimplemented = (message: string, options?: Options): CsiError => new CsiError(status.UNIMPLEMENTED, message, options)
export const outOfRange = (message: string, options?: Options): CsiError => new CsiError(status.OUT_OF_RANGE, message, options)
