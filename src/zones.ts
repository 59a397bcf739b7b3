/**
 * Zones of a zoned target: their options and rules.
 *
 * Thread: any.
 */
import { invalidType, invalidValue, outOfRange } from './errors.ts'
import type { DeviceSpec, ZonedSpec } from './native.ts'
import { parseSize, type Size } from './size.ts'

/** Options of `zoned`. */
export interface ZonedOptions {
  /** Size of the device, whole zones; required here or as the device's `size`. */
  size?: Size
  /** File to keep the data in, made if it is missing; `PATH.zones` beside it keeps the write pointers. Default memory. */
  path?: string | URL
  /** From one zone to the next, a power of two from '64KiB' to '1TiB'. Default '64MiB'. */
  zoneSize?: Size
  /** What a sequential zone takes, a multiple of 4096 up to `zoneSize`. Default `zoneSize`. */
  zoneCapacity?: Size
  /** The first so many zones can be written anywhere; fewer than there are. Default 0. */
  conventionalZones?: number
  /** Most zones that may be open at a time; 0 is no limit. Default 0. */
  maxOpen?: number
  /** Most zones that may be open or closed, that is, partly written; at least `maxOpen`; 0 is no limit. Default 0. */
  maxActive?: number
}

const DEFAULT_ZONE_SIZE = '64MiB'
const MIN_ZONE_BYTES = 64 * 1024
/** Its sectors are a power of two in 32 bits (`chunk_sectors`). */
const MAX_ZONE_BYTES = 1024 ** 4
/** So that every block size divides it. */
const CAPACITY_STEP_BYTES = 4096
/** `struct blk_zone`. */
const REPORT_BYTES = 64

/** What can be checked without the size of the device. */
export function checkZones(options: ZonedOptions): ZonedSpec {
  const { zoneSize = DEFAULT_ZONE_SIZE, zoneCapacity, conventionalZones = 0, maxOpen = 0, maxActive = 0 } = options
  const zoneBytes = parseSize(zoneSize, 'zoneSize')
  if (zoneBytes < MIN_ZONE_BYTES || zoneBytes > MAX_ZONE_BYTES || !Number.isInteger(Math.log2(zoneBytes))) {
    throw outOfRange('zoneSize', 'a power of two from 64 KiB to 1 TiB', zoneSize)
  }
  for (const [name, value] of Object.entries({ conventionalZones, maxOpen, maxActive })) {
    if (typeof value !== 'number') throw invalidType(name, 'a number', value)
    if (!Number.isInteger(value) || value < 0) throw outOfRange(name, 'a whole number, not below 0', value)
  }
  if (maxActive !== 0 && maxActive < maxOpen) throw outOfRange('maxActive', `0 or at least maxOpen, ${maxOpen}`, maxActive)
  return {
    zoneBytes,
    zoneCapacityBytes: zoneCapacity === undefined ? null : checkCapacity(zoneCapacity, zoneBytes),
    conventionalZones,
    maxOpenZones: maxOpen,
    maxActiveZones: maxActive,
  }
}

function checkCapacity(capacity: Size, zoneBytes: number): number {
  const bytes = parseSize(capacity, 'zoneCapacity')
  if (bytes < CAPACITY_STEP_BYTES || bytes > zoneBytes || bytes % CAPACITY_STEP_BYTES !== 0) {
    throw outOfRange('zoneCapacity', `a multiple of ${CAPACITY_STEP_BYTES} up to zoneSize, ${zoneBytes}`, capacity)
  }
  return bytes
}

type ZonedDevice = Pick<DeviceSpec, 'queues' | 'maxIoBytes' | 'dataPath' | 'perIo' | 'batch' | 'recovery'>

/** What depends on the device; `path` is where the zones are kept, null for memory. */
export function checkZonedDevice(zoned: ZonedSpec, path: string | null, sizeBytes: number, device: ZonedDevice): void {
  if (sizeBytes < zoned.zoneBytes || sizeBytes % zoned.zoneBytes !== 0) {
    throw outOfRange('size', `a multiple of the zone size ${zoned.zoneBytes}, and not 0`, sizeBytes)
  }
  const zones = sizeBytes / zoned.zoneBytes
  if (zoned.conventionalZones >= zones) {
    throw outOfRange('conventionalZones', `below the number of zones, ${zones}`, zoned.conventionalZones)
  }
  for (const [name, value] of [['maxOpen', zoned.maxOpenZones] as const, ['maxActive', zoned.maxActiveZones] as const]) {
    if (value > zones) throw outOfRange(name, `at most the number of zones, ${zones}`, value)
  }
  // The driver numbers the zones of a second request from 0 again, up to Linux 7.2 at least (`ublk_report_zones`).
  if (zones * REPORT_BYTES > device.maxIoBytes) {
    const rule = `at least ${REPORT_BYTES} for each of ${zones} zones, which are reported in one request (or take a larger zoneSize)`
    throw outOfRange('maxIoBytes', rule, device.maxIoBytes)
  }
  const oneThread = 'for a zoned target (its zones belong to one thread)'
  if (device.queues > 1) throw outOfRange('queues', `1 ${oneThread}`, device.queues)
  if (device.perIo) throw invalidValue('perIo', `false ${oneThread}`, device.perIo)
  if (device.batch) throw invalidValue('batch', 'false for a zoned target', device.batch)
  if (device.recovery !== 'off' && path === null) {
    throw invalidValue('recovery', "'off' for a zoned target in memory (its zones are lost with its server)", device.recovery)
  }
  if (device.recovery === 'reissue') {
    throw invalidValue('recovery', "'off', 'requeue' or 'fail-io' for a zoned target (no write may come twice)", device.recovery)
  }
  if (device.dataPath !== 'auto' && device.dataPath !== 'user-copy') {
    throw invalidValue('dataPath', "'auto' or 'user-copy' for a zoned target (the driver wants it)", device.dataPath)
  }
}
