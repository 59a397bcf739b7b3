/**
 * Integrity data of a device: its options and rules.
 *
 * Thread: any.
 */
import { invalidType, invalidValue, outOfRange, unknownOption } from './errors.ts'
import type { DeviceSpec, IntegritySpec, TargetSpec } from './native.ts'

/** Metadata that accompanies each logical block, and what of it is protection information that the kernel makes and checks. */
export interface IntegrityOptions {
  /** Bytes of metadata to a logical block, 1 to 255. Default those of the checksum's tuple: 8, or 16 for 'nvme'. */
  size?: number
  /** Checksum of the protection information: T10's CRC-16, the Internet's, or NVMe's CRC-64. Default none: just metadata. */
  csum?: 't10dif' | 'ip' | 'nvme'
  /** Where in the metadata the protection information begins. Default 0. */
  piOffset?: number
  /** Bytes of the application's tag: up to 2 with `reftag`, else 6, or 8 for 'nvme'; without a checksum up to `size`. Default 0. */
  tagSize?: number
  /** The reference tag holds the place of the data, and is checked. Default false. */
  reftag?: boolean
  /** Say that the device checks integrity data by itself, which it does not. Default false. */
  capable?: boolean
}

const NAMES = ['size', 'csum', 'piOffset', 'tagSize', 'reftag', 'capable']
/** Bytes of a tuple, and of its checksum and reference tag: see `linux/t10-pi.h`. */
const TUPLES = {
  none: { bytes: 0, guard: 0, reference: 0 },
  t10dif: { bytes: 8, guard: 2, reference: 4 },
  ip: { bytes: 8, guard: 2, reference: 4 },
  nvme: { bytes: 16, guard: 8, reference: 6 },
}
const MAX_BYTES = 255

/** What can be checked without the target. */
export function checkIntegrity(options: IntegrityOptions): IntegritySpec {
  if (typeof options !== 'object' || options === null) throw invalidType('integrity', 'an object', options)
  const stranger = Object.keys(options).find((name) => !NAMES.includes(name))
  if (stranger !== undefined) throw unknownOption(`integrity.${stranger}`, NAMES)
  const { csum, reftag = false, capable = false } = options
  if (csum !== undefined && typeof csum !== 'string') throw invalidType('integrity.csum', "'t10dif', 'ip' or 'nvme'", csum)
  if (csum !== undefined && !['t10dif', 'ip', 'nvme'].includes(csum)) {
    throw invalidValue('integrity.csum', "'t10dif', 'ip' or 'nvme'", csum)
  }
  for (const [name, value] of Object.entries({ reftag, capable })) {
    if (typeof value !== 'boolean') throw invalidType(`integrity.${name}`, 'a boolean', value)
  }
  const tuple = TUPLES[csum ?? 'none']
  if (reftag && csum === undefined) throw invalidValue('integrity.reftag', 'false without a checksum', reftag)
  const metadataBytes = bytes('size', options.size ?? (tuple.bytes || undefined), Math.max(1, tuple.bytes), MAX_BYTES)
  const piOffsetBytes = bytes('piOffset', options.piOffset ?? 0, 0, metadataBytes - tuple.bytes)
  const tagRoom = csum === undefined ? metadataBytes : tuple.bytes - tuple.guard - (reftag ? tuple.reference : 0)
  const tagBytes = bytes('tagSize', options.tagSize ?? 0, 0, tagRoom)
  return { metadataBytes, checksum: csum ?? 'none', piOffsetBytes, tagBytes, refTag: reftag, capable }
}

/** What depends on the device. */
export function checkIntegrityDevice(target: TargetSpec | null, device: Pick<DeviceSpec, 'dataPath'>): void {
  if (target === null || !['null', 'mem', 'file'].includes(target.kind)) {
    throw invalidValue('integrity', 'left out unless the target is nullTarget, memory or file', target?.kind ?? 'a JavaScript backend')
  }
  if (device.dataPath !== 'auto' && device.dataPath !== 'user-copy') {
    throw invalidValue('dataPath', "'auto' or 'user-copy' with integrity (the driver wants it)", device.dataPath)
  }
}

function bytes(name: string, value: number | undefined, min: number, max: number): number {
  if (typeof value !== 'number') throw invalidType(`integrity.${name}`, 'a number', value)
  if (!Number.isInteger(value) || value < min || value > max) {
    throw outOfRange(`integrity.${name}`, `a whole number from ${min} to ${max}`, value)
  }
  return value
}
