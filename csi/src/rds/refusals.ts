/** What a router says when it refuses, as the status that a caller is told. One table; the first line that fits counts. */
import {
  alreadyExists,
  type CsiError,
  failedPrecondition,
  internal,
  invalidArgument,
  notFound,
  permissionDenied,
  resourceExhausted,
} from '../errors.ts'

/** Since this version a file disk can be exported under an NQN of its own. */
export const NEEDED_VERSION = '7.21'

type Make = (message: string) => CsiError

const TABLE: [pattern: RegExp, make: Make, advice: string][] = [
  [/not enough space|no space left|out of (disk )?space/i, resourceExhausted, 'delete volumes or add disks to the pool'],
  [/not enough permissions|not allowed/i, permissionDenied, "the router's user needs the policies ssh, read, write, test and ftp"],
  [/no such item/i, notFound, 'it is gone already'],
  [/already|file exists/i, alreadyExists, 'something else has this name'],
  [/compression only available for btrfs/i, invalidArgument, 'leave compression off'],
  [/invalid value|does not match any value/i, invalidArgument, 'see the section rds of the configuration'],
  [/bad command name/i, failedPrecondition, `it needs RouterOS ${NEEDED_VERSION} or later with the package rose-storage`],
  [/expected end of command|unknown parameter/i, failedPrecondition, `it needs RouterOS ${NEEDED_VERSION} or later`],
  [/syntax error/i, internal, 'this is an error of the driver: please report it'],
  [/stop using it first|in use|busy/i, failedPrecondition, 'a node still uses the disk: it is tried again when that has let go'],
]

export function refusal(operation: string, reason: string): CsiError {
  const [, make, advice] = TABLE.find(([pattern]) => pattern.test(reason)) ?? [undefined, internal, "see the router's log"]
  return make(`${operation}: the router answers "${reason}"; ${advice}`)
}
