/**
 * What requests have in common: fields that must be there, capabilities, sizes, topology. Each check names the field.
 */

import { invalidArgument, outOfRange } from './errors.ts'
import {
  type CapacityRange,
  VolumeCapability_AccessMode_Mode as Mode,
  type Topology,
  type VolumeCapability,
  type VolumeCapability_AccessMode_Mode,
} from './generated/csi.ts'

export const FILESYSTEMS = ['ext3', 'ext4', 'xfs', 'btrfs'] as const
export type Filesystem = (typeof FILESYSTEMS)[number]
const DEFAULT_FILESYSTEM: Filesystem = 'ext4'

/** How a volume is to be used. */
export type Access = { mode: VolumeCapability_AccessMode_Mode } & (
  | { kind: 'block' }
  | { kind: 'mount'; filesystem: Filesystem; mountFlags: string[]; group: number | null }
)

/** Modes that one node at a time can have. A file system that two nodes mount is soon none. */
const SINGLE_NODE_MODES: readonly VolumeCapability_AccessMode_Mode[] = [
  Mode.SINGLE_NODE_WRITER,
  Mode.SINGLE_NODE_READER_ONLY,
  Mode.SINGLE_NODE_SINGLE_WRITER,
  Mode.SINGLE_NODE_MULTI_WRITER,
]

export function required(name: string, value: string): string {
  if (value === '') throw invalidArgument(`${name} is missing`)
  return value
}

/** An absolute path without "..": it is given to mount. */
export function requiredPath(name: string, value: string): string {
  if (!required(name, value).startsWith('/') || value.split('/').includes('..') || value.includes('\0')) {
    throw invalidArgument(`${name} must be an absolute path without "..", got "${value}"`)
  }
  return value
}

/** The capability, or INVALID_ARGUMENT with what `unsupported` says. */
export function requiredAccess(capability: VolumeCapability | undefined): Access {
  if (capability === undefined) throw invalidArgument('volume_capability is missing')
  const problem = unsupported(capability)
  if (problem !== null) throw invalidArgument(problem)
  return accessOf(capability)
}

export function requiredAccesses(capabilities: VolumeCapability[]): Access[] {
  if (capabilities.length === 0) throw invalidArgument('volume_capabilities is missing')
  return capabilities.map(requiredAccess)
}

/** Why a capability cannot be had, or null. */
export function unsupported({ accessType, accessMode }: VolumeCapability): string | null {
  if (accessType === undefined) return 'volume_capability.access_type is missing: block or mount'
  if (accessMode === undefined) return 'volume_capability.access_mode is missing'
  if (!SINGLE_NODE_MODES.includes(accessMode.mode)) {
    return `access mode ${accessMode.mode} is not for this driver: a volume is used on one node at a time (ReadWriteOnce, ReadWriteOncePod)`
  }
  if (accessType.$case === 'block') return null
  const { fsType, mountFlags, volumeMountGroup } = accessType.value
  if (fsType !== '' && !(FILESYSTEMS as readonly string[]).includes(fsType)) {
    return `file system "${fsType}" is not one of ${FILESYSTEMS.join(', ')}`
  }
  const flag = mountFlags.find((text) => text === '' || text.includes('\0'))
  if (flag !== undefined) return 'mount_flags has an empty flag'
  if (volumeMountGroup !== '' && !/^\d{1,10}$/.test(volumeMountGroup))
    return `volume_mount_group "${volumeMountGroup}" is not a group's number`
  return null
}

function accessOf({ accessType, accessMode }: VolumeCapability): Access {
  const { mode } = accessMode!
  if (accessType!.$case === 'block') return { mode, kind: 'block' }
  const { fsType, mountFlags, volumeMountGroup } = accessType!.value
  const group = volumeMountGroup === '' ? null : Number(volumeMountGroup)
  return { mode, kind: 'mount', filesystem: (fsType || DEFAULT_FILESYSTEM) as Filesystem, mountFlags, group }
}

/** Read for one node only: nothing may be written. */
export const isReadOnly = ({ mode }: Access): boolean => mode === Mode.SINGLE_NODE_READER_ONLY
/** ReadWriteOncePod: one target path at a time. */
export const isSingleWriter = ({ mode }: Access): boolean => mode === Mode.SINGLE_NODE_SINGLE_WRITER

const MIB = 1024n * 1024n
const DEFAULT_BYTES = 1024n * MIB
/** Sizes are whole mebibytes: every block size divides them, on either provider. */
const GRANULE_BYTES = MIB

/** The bytes to make: as few as allowed. */
export function sizeOf(range: CapacityRange | undefined): bigint {
  const { requiredBytes = 0n, limitBytes = 0n } = range ?? {}
  if (requiredBytes < 0n || limitBytes < 0n) throw invalidArgument('capacity_range must not be negative')
  if (limitBytes > 0n && requiredBytes > limitBytes) {
    throw invalidArgument(`capacity_range wants at least ${requiredBytes} bytes and at most ${limitBytes}`)
  }
  let wanted = requiredBytes
  if (wanted === 0n) wanted = limitBytes > 0n && limitBytes < DEFAULT_BYTES ? limitBytes - (limitBytes % GRANULE_BYTES) : DEFAULT_BYTES
  const bytes = ((wanted + GRANULE_BYTES - 1n) / GRANULE_BYTES) * GRANULE_BYTES
  if (bytes === 0n || (limitBytes > 0n && bytes > limitBytes)) {
    throw outOfRange(`sizes are whole MiB: ${requiredBytes} bytes cannot be met within the limit of ${limitBytes}`)
  }
  return bytes
}

/** Whether what exists is what a range allows. */
export function fits(bytes: bigint, range: CapacityRange | undefined): boolean {
  const { requiredBytes = 0n, limitBytes = 0n } = range ?? {}
  return bytes >= requiredBytes && (limitBytes === 0n || bytes <= limitBytes)
}

/** Whether a topology has this segment, or has nothing to say about it. */
export const isWithin = ({ segments }: Topology, key: string, value: string): boolean => (segments[key] ?? value) === value
