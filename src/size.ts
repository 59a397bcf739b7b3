/**
 * Sizes as people write them: 1048576, 1048576n, '10GiB'.
 *
 * Thread: any. '10G' means GiB, as for losetup and qemu-img; '10GB' is refused because it could mean either.
 */
import { invalidType, invalidValue, outOfRange } from './errors.ts'

/** Bytes as a number or bigint, or text such as '512', '64MiB', '1.5G'. */
export type Size = number | bigint | string

const UNIT_BYTES: Record<string, number> = { '': 1, B: 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40, P: 2 ** 50 }
const PATTERN = /^(\d+)(?:\.(\d+))?\s*(?:(B)|([KMGTP])(iB)?)?$/i

/**
 * Bytes of a size.
 * @param size whole bytes, or text: digits, perhaps a fraction, and B, K, M, G, T, P with or without `iB` (powers of 1024)
 * @param name of the option, for the message
 * @returns bytes, exact, 0 to 2^53 - 1
 * @throws TypeError or RangeError with an `ERR_INVALID_ARG_…` or `ERR_OUT_OF_RANGE` code
 */
export function parseSize(size: Size, name = 'size'): number {
  const bytes = toBytes(size, name)
  if (!Number.isSafeInteger(bytes) || bytes < 0) {
    throw outOfRange(name, 'a whole number of bytes from 0 to 2^53 - 1', size)
  }
  return bytes
}

/** The size of a device, or a RangeError. */
export function checkDeviceSize(sizeBytes: number, blockSize: number): number {
  if (sizeBytes >= blockSize && sizeBytes % blockSize === 0) return sizeBytes
  throw outOfRange('size', `a multiple of the block size ${blockSize}, and not 0`, sizeBytes)
}

function toBytes(size: Size, name: string): number {
  if (typeof size === 'number') return size
  if (typeof size === 'bigint') return Number(size)
  if (typeof size !== 'string') throw invalidType(name, "a number, a bigint or text such as '10GiB'", size)
  const match = PATTERN.exec(size.trim())
  if (match === null) {
    throw invalidValue(name, "a size such as 1048576, '64MiB' or '10G' (units K, M, G, T, P are powers of 1024)", size)
  }
  const [, whole = '', fraction = '', , unit = ''] = match
  const unitBytes = UNIT_BYTES[unit.toUpperCase()] ?? 1
  // '0.1G' is no whole number of bytes; the fraction alone is rounded down, so that whole sizes stay exact.
  return Number(whole) * unitBytes + Math.floor(Number(`0.${fraction || '0'}`) * unitBytes)
}
