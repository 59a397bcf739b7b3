/**
 * A device as the kernel describes it, in public names.
 */
import type { DataPath } from './data-path.ts'
import type { IntegrityOptions } from './integrity.ts'
import type { IntegritySpec, NativeDeviceInfo, NativeZoneLimits } from './native.ts'

/** States that the kernel gives a device. `dead`: added, not served. `quiesced`, `fail_io`: the server is gone and recovery was asked for. */
export type KernelState = 'dead' | 'live' | 'quiesced' | 'fail_io'

/** State of a `Device` object: the kernel's, or `closed` when it is removed. */
export type DeviceState = KernelState | 'closed'

/** A ublk device of this machine. Sizes are bytes. */
export interface DeviceInfo {
  /** N of /dev/ublkbN. */
  id: number
  /** Block device, such as /dev/ublkb0. */
  path: string
  /** Character device of the server, such as /dev/ublkc0. */
  charPath: string
  state: KernelState
  size: number
  logicalBlockSize: number
  physicalBlockSize: number
  queues: number
  depth: number
  /** Longest read or write. */
  maxIoBytes: number
  /** Process that serves it, 0 when none does. */
  pid: number
  readOnly: boolean
  rotational: boolean
  volatileCache: boolean
  fua: boolean
  discard: boolean
  writeZeroes: boolean
  /** Alignment in bytes of the memory that its users give with O_DIRECT. */
  dmaAlignment: number
  /** Most pieces of memory that a request consists of. */
  maxSegments: number
  /** Longest of them. */
  maxSegmentSize: number
  /** A multiple of this is crossed by none. */
  segmentBoundary: number
  /** Zones, of a zoned device; else null. */
  zones: DeviceZones | null
  /** Metadata to each logical block; null where there is none. Its options as they were given, or by default. */
  integrity: DeviceIntegrity | null
  /** Major and minor number of `charPath`, such as `240:0`. */
  charNumber: string
  /** The same of `path`; null before the device was started. */
  blockNumber: string | null
  /** How data moves between the kernel and the server: a `dataPath` that is not 'auto'. */
  dataPath: Exclude<DataPath, 'auto'>
  /** Features of the device, kernel names without the UBLK_F_ prefix. */
  flags: string[]
  ownerUid: number
  ownerGid: number
}

/** Sizes are bytes. */
export interface DeviceZones {
  /** From one zone to the next. */
  size: number
  /** Most open zones; 0 is no limit. */
  maxOpen: number
  /** Most open or closed zones; 0 is no limit. */
  maxActive: number
  /** Longest zone append. */
  maxAppendBytes: number
}

/** As `IntegrityOptions`, with nothing left out; `csum` is null where there is no protection information. */
export type DeviceIntegrity = Required<Omit<IntegrityOptions, 'csum'>> & { csum: NonNullable<IntegrityOptions['csum']> | null }

export const blockPath = (id: number): string => `/dev/ublkb${id}`
export const charPath = (id: number): string => `/dev/ublkc${id}`

export function toDeviceInfo(native: NativeDeviceInfo): DeviceInfo {
  return {
    id: native.id,
    path: blockPath(native.id),
    charPath: charPath(native.id),
    state: native.state,
    size: native.sizeBytes,
    logicalBlockSize: native.logicalBlockBytes,
    physicalBlockSize: native.physicalBlockBytes,
    queues: native.queues,
    depth: native.depth,
    maxIoBytes: native.maxIoBytes,
    pid: native.pid,
    readOnly: native.readOnly,
    rotational: native.rotational,
    volatileCache: native.volatileCache,
    fua: native.fua,
    discard: native.discard,
    writeZeroes: native.writeZeroes,
    dmaAlignment: native.dmaAlignBytes,
    maxSegments: native.segments.maxCount,
    maxSegmentSize: native.segments.maxBytes,
    segmentBoundary: native.segments.boundaryBytes,
    zones: native.zones && toZones(native.zones),
    integrity: native.integrity && toIntegrity(native.integrity),
    charNumber: native.charNumber,
    blockNumber: native.blockNumber,
    dataPath: dataPathOf(native.flags),
    flags: native.flags,
    ownerUid: native.ownerUid,
    ownerGid: native.ownerGid,
  }
}

function toZones({ zoneBytes, maxOpenZones, maxActiveZones, maxAppendBytes }: NativeZoneLimits): DeviceZones {
  return { size: zoneBytes, maxOpen: maxOpenZones, maxActive: maxActiveZones, maxAppendBytes }
}

function toIntegrity({ metadataBytes, checksum, piOffsetBytes, tagBytes, refTag, capable }: IntegritySpec): DeviceIntegrity {
  const csum = checksum === 'none' ? null : checksum
  return { size: metadataBytes, csum, piOffset: piOffsetBytes, tagSize: tagBytes, reftag: refTag, capable }
}

/** The driver has no word for it: its flags tell. Of several the first here is the one that counts. */
function dataPathOf(flags: string[]): DeviceInfo['dataPath'] {
  if (flags.includes('AUTO_BUF_REG')) return 'auto-zero-copy'
  if (flags.includes('SUPPORT_ZERO_COPY')) return 'zero-copy'
  if (flags.includes('USER_COPY')) return 'user-copy'
  if (flags.includes('SHMEM_ZC')) return 'shmem'
  return flags.includes('NEED_GET_DATA') ? 'get-data' : 'copy'
}
