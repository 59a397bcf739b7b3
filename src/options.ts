/**
 * Options of a device: their rules, their defaults, and the `DeviceSpec` they become.
 *
 * Thread: any. All range checks of the library happen here: the conversion at the native boundary checks nothing.
 */
import { checkSignal } from './abort.ts'
import type { Abilities, Backend } from './backend.ts'
import { type CheckedQueueOptions, checkBackendPath, checkQueueOptions, QUEUE_OPTION_NAMES, type QueueOptions } from './data-path.ts'
import { invalidType, invalidValue, outOfRange, unknownOption } from './errors.ts'
import type { DeviceInfo } from './info.ts'
import { checkIntegrity, checkIntegrityDevice, type IntegrityOptions } from './integrity.ts'
import { slotCount } from './layout.ts'
import { checkId } from './list.ts'
import type { DeviceSpec, IntegritySpec, NbdSpec, TargetSpec } from './native.ts'
import { type CheckedRequestMemory, checkRequestMemory, REQUEST_MEMORY_NAMES, type RequestMemoryOptions } from './request-memory.ts'
import { checkFormerMemory, type FormerMemory } from './shared-memory.ts'
import { checkDeviceSize, parseSize, type Size } from './size.ts'
import { NativeTarget, type WorkerBackend, worker } from './targets.ts'
import { checkZonedDevice } from './zones.ts'

/** What happens to a device whose server is gone. */
export type Recovery = 'off' | 'requeue' | 'reissue' | 'fail-io'

/** Options of `createDevice` and `Device.create`. */
export interface DeviceOptions extends QueueOptions, RequestMemoryOptions {
  /**
   * Where the bytes live: a backend object (served on this thread), a native target (`memory`, `file`, `stripe`, …), or a module run in
   * workers: its URL, its path, or `worker(url, { options })`.
   */
  backend: Backend | NativeTarget | WorkerBackend | URL | string
  /** Size of the device; default the backend's. A multiple of `blockSize`. */
  size?: Size
  /** Wanted N of /dev/ublkbN; default the lowest free one. */
  id?: number
  /** Hardware queues, 1 to 4096; default 1. With a module, one worker each. */
  queues?: number
  /** Requests the kernel may have open per queue, 1 to 4096; default 128. */
  depth?: number
  /** Logical block size in bytes: 512, 1024, 2048 or 4096; default the backend's, else 512. */
  blockSize?: number
  /** Physical block size in bytes, a power of two from `blockSize` to 65536; default the target's, else `blockSize` or 4096, the larger. */
  physicalBlockSize?: number
  /**
   * Longest read or write in bytes, '4KiB' to '32MiB', a multiple of 4096; default 512 KiB. Memory: queues × depth × maxIoBytes, when touched.
   * Above 1280 KiB (4 MiB on newer kernels) the block layer splits requests until `/sys/block/ublkbN/queue/max_sectors_kb` is raised.
   */
  maxIoBytes?: Size
  /** Default: whether the backend has no `write`. */
  readOnly?: boolean
  /** Tell the kernel that seeking costs time. Default false. */
  rotational?: boolean
  /** What happens when this process dies. 'off' (default): the block device goes, `dead`. Else it stays, `quiesced` or `fail_io`, until it is recovered. */
  recovery?: Recovery
  /**
   * Make the device as a user without CAP_SYS_ADMIN, for this user alone (Linux 6.3). It needs the udev rules that `ublk udev` prints; there is
   * no recovery, and data moves by 'copy' or 'get-data'. After 30 s without an answer the kernel kills this process: see `requestTimeoutMs`.
   * Default false.
   */
  unprivileged?: boolean
  /** Metadata to each logical block, for `nullTarget`, `memory` and `file` (Linux 7.0). A file's is kept in `PATH.integrity`. Default none. */
  integrity?: IntegrityOptions
  /** CPUs for the queue threads, dealt out in turn, one each; default the kernel's affinity of each queue. */
  cpus?: number[]
  /** Time a JavaScript handler has for one request, in milliseconds, 1 to 29999; default 20000. Then the request fails with ETIMEDOUT. */
  requestTimeoutMs?: number
  /** Handed to the factory of a backend module. */
  backendOptions?: Record<string, unknown>
  /** Close the device on SIGINT, SIGTERM and SIGHUP before the process ends. Default true. */
  closeOnSignal?: boolean
  /** Aborts the call: it rejects with an AbortError and leaves nothing behind. */
  signal?: AbortSignal
}

/** Options after their checks; what is null comes from the backend. */
export interface CheckedOptions extends CheckedQueueOptions, CheckedRequestMemory {
  backend: Backend | NativeTarget | WorkerBackend
  sizeBytes: number | null
  id: number | null
  queues: number
  depth: number
  blockSize: number | null
  physicalBlockSize: number | null
  maxIoBytes: number
  readOnly: boolean | null
  rotational: boolean
  recovery: Recovery
  unprivileged: boolean
  integrity: IntegritySpec | null
  cpus: number[] | null
  requestTimeoutMs: number
  closeOnSignal: boolean
  signal: AbortSignal | null
}

const NAMES = new Set<string>([
  'backend',
  'size',
  'id',
  'queues',
  'depth',
  'blockSize',
  'physicalBlockSize',
  'maxIoBytes',
  'readOnly',
  'rotational',
  'recovery',
  ...QUEUE_OPTION_NAMES,
  ...REQUEST_MEMORY_NAMES,
  'unprivileged',
  'integrity',
  'cpus',
  'requestTimeoutMs',
  'backendOptions',
  'closeOnSignal',
  'signal',
])

/** UBLK_MAX_NR_QUEUES and UBLK_MAX_QUEUE_DEPTH in ublk_cmd.h. */
const MAX_QUEUES = 4096
const MAX_DEPTH = 4096
const DEFAULT_DEPTH = 128

const KIB = 1024
const MIB = 1024 * KIB
/** The driver wants at least a page; 32 MiB is the largest buffer UBLK_IO_BUF_BITS (25) can address. */
const MIN_IO_BYTES = 4 * KIB
const MAX_IO_BYTES = 32 * MIB
const DEFAULT_IO_BYTES = 512 * KIB

const BLOCK_SIZES = [512, 1024, 2048, 4096]
const DEFAULT_BLOCK_SIZE = 512
const DEFAULT_PHYSICAL_BLOCK_SIZE = 4096
const MAX_PHYSICAL_BLOCK_SIZE = 64 * KIB

/** After 30 s the kernel kills an unprivileged server (`ublk_timeout` in ublk_drv.c); the rest is for answering ETIMEDOUT ourselves. */
const REQUEST_TIMEOUT_LIMIT_MS = 30_000
const DEFAULT_REQUEST_TIMEOUT_MS = 20_000
/**
 * For a request of an unprivileged device with a native target: what a busy machine may need is left of the 30 s. With NBD the connection is
 * taken for lost after 10 s, and the tick of a second in which that is seen; a new one is waited for 15 s; and if it is lost as well, this is the end.
 */
const USER_DEADLINE_MS = 28_000
const USER_NBD_TIMEOUT_MS = 10_000
const USER_PATIENCE_MS = 15_000

/** One slab is one allocation; beyond this a typing error is likelier than a wish. */
const MAX_SLAB_BYTES = 4 * 1024 * MIB

/** Checks every option by itself and sets the defaults that need no backend. */
export function checkOptions(options: DeviceOptions): CheckedOptions {
  if (typeof options !== 'object' || options === null) throw invalidType('options', 'an object', options)
  const stranger = Object.keys(options).find((name) => !NAMES.has(name))
  if (stranger !== undefined) throw unknownOption(stranger, NAMES)
  const sizeBytes = options.size === undefined ? null : parseSize(options.size)
  const blockSize = optional(options.blockSize, checkBlockSize)
  const queues = integer('queues', options.queues ?? 1, 1, MAX_QUEUES)
  return {
    backend: checkBackend(options),
    sizeBytes,
    id: optional(options.id, checkId),
    queues,
    depth: integer('depth', options.depth ?? DEFAULT_DEPTH, 1, MAX_DEPTH),
    blockSize,
    physicalBlockSize: optional(options.physicalBlockSize, checkPhysicalBlockSize),
    maxIoBytes: checkMaxIoBytes(options.maxIoBytes ?? DEFAULT_IO_BYTES),
    readOnly: optional(options.readOnly, (value) => boolean('readOnly', value)),
    rotational: boolean('rotational', options.rotational ?? false),
    recovery: oneOf('recovery', options.recovery ?? 'off', ['off', 'requeue', 'reissue', 'fail-io']),
    ...checkQueueOptions(options, queues),
    ...checkRequestMemory(options),
    unprivileged: boolean('unprivileged', options.unprivileged ?? false),
    integrity: optional(options.integrity, checkIntegrity),
    cpus: optional(options.cpus, checkCpus),
    requestTimeoutMs: integer('requestTimeoutMs', options.requestTimeoutMs ?? DEFAULT_REQUEST_TIMEOUT_MS, 1, REQUEST_TIMEOUT_LIMIT_MS - 1),
    closeOnSignal: boolean('closeOnSignal', options.closeOnSignal ?? true),
    signal: checkSignal(options.signal),
  }
}

/** Options of `recoverDevice`: what serves the device from now on. All else the device has already. */
export interface RecoverOptions extends Pick<DeviceOptions, Exclude<(typeof RECOVER_NAMES)[number], 'sharedMemory'>> {
  /**
   * What `device.sharedMemory()` said at the former server. Of a file that is there no more, or is another one by now, `warning` tells: requests
   * from it fail, until the device is live again.
   */
  sharedMemory?: FormerMemory[]
}

const RECOVER_NAMES = [
  'backend',
  'backendOptions',
  'cpus',
  'requestTimeoutMs',
  'closeOnSignal',
  'signal',
  'threads',
  'perIo',
  'fixedFiles',
  'preempt',
  'zeroCopyFallback',
  'sharedMemory',
] as const

/** The options with which a device that exists was made, and what serves it from now on. */
export function checkRecoverOptions(info: DeviceInfo, options: RecoverOptions): CheckedOptions {
  if (typeof options !== 'object' || options === null) throw invalidType('options', 'an object', options)
  const stranger = Object.keys(options).find((name) => !(RECOVER_NAMES as readonly string[]).includes(name))
  if (stranger !== undefined) throw unknownOption(stranger, RECOVER_NAMES)
  const {
    id,
    size,
    queues,
    depth,
    logicalBlockSize: blockSize,
    physicalBlockSize,
    maxIoBytes,
    readOnly,
    rotational,
    flags,
    dataPath,
  } = info
  const { sharedMemory, zeroCopyFallback, ...rest } = options
  const geometry = { size, queues, depth, blockSize, physicalBlockSize, maxIoBytes, readOnly, rotational }
  const serving = { dataPath, batch: flags.includes('BATCH_IO'), partitionScan: !flags.includes('NO_AUTO_PART_SCAN') }
  // Where 'auto' has picked another way than auto-zero-copy, the wish for a fallback has no meaning any more.
  const isMeant = dataPath === 'auto-zero-copy' || (zeroCopyFallback !== true && zeroCopyFallback !== 'always')
  const fallback = isMeant && zeroCopyFallback !== undefined ? { zeroCopyFallback } : {}
  const checked = checkOptions({ ...rest, ...fallback, id, ...geometry, ...serving, recovery: recoveryOf(flags) })
  if (checked.perIo && !flags.includes('PER_IO_DAEMON')) {
    throw invalidValue('perIo', `left out: this kernel's driver has no threads that share queues (PER_IO_DAEMON, Linux 6.16)`, true)
  }
  if (flags.includes('INTEGRITY')) checkIntegrityDevice(checked.backend instanceof NativeTarget ? checked.backend.spec : null, checked)
  return { ...checked, sharedMemory: checkFormerMemory(sharedMemory, dataPath) }
}

/** The recovery that a device was made with. */
function recoveryOf(flags: string[]): Recovery {
  if (flags.includes('USER_RECOVERY_FAIL_IO')) return 'fail-io'
  if (flags.includes('USER_RECOVERY_REISSUE')) return 'reissue'
  return flags.includes('USER_RECOVERY') ? 'requeue' : 'off'
}

/** A JavaScript backend must do what the device has promised its users. */
export function checkPromises({ id, volatileCache, discard }: DeviceInfo, spec: DeviceSpec): void {
  if (spec.target !== null) return
  const missing = volatileCache && !spec.volatileCache ? 'flush' : discard && !spec.discard ? 'discard' : null
  if (missing !== null) throw invalidValue('backend', `one with a ${missing} method: device ${id} has promised that`, undefined)
}

/** The native description of a device with a native target. */
export function targetDeviceSpec(options: CheckedOptions, target: TargetSpec): DeviceSpec {
  const base = baseOf(target)
  const sizeBytes = options.sizeBytes ?? base.sizeBytes
  const hasOwnSize = (base.paths.length > 0 && base.zoned === null) || base.nbd !== null
  if (sizeBytes === null && !hasOwnSize) {
    throw invalidType('size', 'given: a memory, null or zoned target has none of its own', undefined)
  }
  const blockSize = options.blockSize ?? (hasOwnSize ? null : DEFAULT_BLOCK_SIZE)
  if (sizeBytes !== null) checkDeviceSize(sizeBytes, blockSize ?? DEFAULT_BLOCK_SIZE)
  checkPhysical(options.physicalBlockSize, blockSize)
  if (base.zoned !== null && sizeBytes !== null) checkZonedDevice(base.zoned, base.paths[0] ?? null, sizeBytes, options)
  if (options.integrity !== null) checkIntegrityDevice(target, options)
  if (options.unprivileged) checkUnprivileged(options, target)
  const readOnly = (options.readOnly ?? false) || base.readOnly
  const nbd = options.unprivileged && base.nbd !== null ? userNbd(base.nbd, delayOf(target)) : base.nbd
  return {
    ...commonSpec(options),
    sizeBytes,
    logicalBlockBytes: blockSize,
    physicalBlockBytes: options.physicalBlockSize,
    readOnly,
    // What the target can do is the target's to say.
    volatileCache: false,
    fua: false,
    discard: false,
    writeZeroes: false,
    target: onBase(target, { sizeBytes, readOnly, nbd }),
  }
}

/** What the driver refuses, or drops in silence, for users without CAP_SYS_ADMIN. */
function checkUnprivileged({ recovery, dataPath, integrity }: CheckedOptions, target: TargetSpec | null): void {
  const user = 'for an unprivileged device'
  if (recovery !== 'off') throw invalidValue('recovery', `'off' ${user} (its user may not hold requests back)`, recovery)
  if (!['auto', 'copy', 'get-data'].includes(dataPath)) throw invalidValue('dataPath', `'auto', 'copy' or 'get-data' ${user}`, dataPath)
  if (integrity !== null) throw invalidValue('integrity', `left out ${user} (it moves by user-copy)`, undefined)
  const delayMs = target === null ? 0 : delayOf(target)
  if (delayMs >= USER_DEADLINE_MS) {
    throw outOfRange(
      'fault.delayMs',
      `less than ${USER_DEADLINE_MS} ${user}, all layers together (after 30 s the kernel kills its server)`,
      delayMs,
    )
  }
  if (target !== null && baseOf(target).zoned !== null)
    throw invalidValue('unprivileged', 'false for a zoned target (it moves its data by user-copy)', true)
}

/** An NBD server whose requests all end before the kernel ends ours: `delayMs` is what layers above it have taken of the time. */
function userNbd(nbd: NbdSpec, delayMs: number): NbdSpec {
  return {
    ...nbd,
    patienceMs: Math.min(nbd.patienceMs, USER_PATIENCE_MS),
    requestTimeoutMs: Math.min(nbd.requestTimeoutMs ?? USER_NBD_TIMEOUT_MS, USER_NBD_TIMEOUT_MS),
    deadlineMs: USER_DEADLINE_MS - delayMs,
  }
}

/** How long every request waits on its way through all layers. */
function delayOf(target: TargetSpec): number {
  return target.over.map(delayOf).reduce((sum, delayMs) => sum + delayMs, target.faults?.delayMs ?? 0)
}

/** The target below all layers: the one that has the bytes. */
function baseOf(target: TargetSpec): TargetSpec {
  const [below] = target.over
  return below === undefined ? target : baseOf(below)
}

/** The same target, with other values for the one below all layers. */
function onBase(target: TargetSpec, values: Partial<TargetSpec>): TargetSpec {
  return target.over.length === 0 ? { ...target, ...values } : { ...target, over: target.over.map((below) => onBase(below, values)) }
}

/** The native description of a device with a JavaScript backend. */
export function backendDeviceSpec(options: CheckedOptions, abilities: Abilities): DeviceSpec {
  const sizeBytes = options.sizeBytes ?? abilities.sizeBytes
  if (sizeBytes === null) throw invalidType('size', 'given, as an option or as backend.size', undefined)
  const blockSize = options.blockSize ?? (abilities.blockSize === null ? DEFAULT_BLOCK_SIZE : checkBlockSize(abilities.blockSize))
  checkDeviceSize(sizeBytes, blockSize)
  checkPhysical(options.physicalBlockSize, blockSize)
  checkSlab(options)
  if (options.readOnly === false && !abilities.write) throw invalidValue('readOnly', 'true for a backend without a write method', false)
  checkBackendPath(options)
  if (options.integrity !== null) checkIntegrityDevice(null, options)
  if (options.unprivileged) checkUnprivileged(options, null)
  const readOnly = options.readOnly ?? !abilities.write
  return {
    ...commonSpec(options),
    sizeBytes,
    logicalBlockBytes: blockSize,
    physicalBlockBytes: options.physicalBlockSize ?? Math.max(blockSize, DEFAULT_PHYSICAL_BLOCK_SIZE),
    readOnly,
    volatileCache: abilities.flush && !readOnly,
    fua: abilities.flush && !readOnly,
    discard: abilities.discard && !readOnly,
    writeZeroes: abilities.writeZeroes && !readOnly,
    target: null,
  }
}

type CommonSpec = CheckedQueueOptions &
  CheckedRequestMemory &
  Pick<
    DeviceSpec,
    'id' | 'queues' | 'depth' | 'maxIoBytes' | 'rotational' | 'recovery' | 'unprivileged' | 'integrity' | 'cpus' | 'requestDeadlineMs'
  >

function commonSpec(options: CheckedOptions): CommonSpec {
  const { id, queues, depth, maxIoBytes, rotational, recovery, unprivileged, integrity, cpus } = options
  const { dataPath, zeroCopyFallback, sharedMemory, threads, perIo, batch, fixedFiles, preempt, partitionScan } = options
  const path = { dataPath, zeroCopyFallback, sharedMemory, threads, perIo, batch, fixedFiles, preempt, partitionScan }
  return {
    id,
    queues,
    depth,
    maxIoBytes,
    rotational,
    recovery,
    unprivileged,
    integrity,
    cpus,
    requestDeadlineMs: options.requestTimeoutMs,
    dmaAlignBytes: options.dmaAlignBytes,
    segments: options.segments,
    ...path,
  }
}

function checkBackend({ backend, backendOptions }: DeviceOptions): CheckedOptions['backend'] {
  if (typeof backend === 'string' || backend instanceof URL) {
    return worker(backend, backendOptions === undefined ? {} : { options: backendOptions })
  }
  if (backendOptions !== undefined)
    throw invalidValue('backendOptions', 'absent unless backend is the URL or path of a module', backendOptions)
  if (typeof backend !== 'object' || backend === null) {
    throw invalidType('backend', 'an object with a read method, a target such as memory(), or the URL or path of a module', backend)
  }
  return backend
}

function checkBlockSize(value: number): number {
  if (typeof value !== 'number') throw invalidType('blockSize', 'a number', value)
  if (!BLOCK_SIZES.includes(value)) throw outOfRange('blockSize', BLOCK_SIZES.join(', ').replace(/, (\d+)$/, ' or $1'), value)
  return value
}

function checkPhysicalBlockSize(value: number): number {
  integer('physicalBlockSize', value, DEFAULT_BLOCK_SIZE, MAX_PHYSICAL_BLOCK_SIZE)
  if ((value & (value - 1)) !== 0) throw outOfRange('physicalBlockSize', 'a power of two', value)
  return value
}

function checkPhysical(physical: number | null, logical: number | null): void {
  if (physical === null || logical === null || physical >= logical) return
  throw outOfRange('physicalBlockSize', `at least the block size ${logical}`, physical)
}

function checkMaxIoBytes(value: Size): number {
  const bytes = parseSize(value, 'maxIoBytes')
  if (bytes < MIN_IO_BYTES || bytes > MAX_IO_BYTES || bytes % MIN_IO_BYTES !== 0) {
    throw outOfRange('maxIoBytes', `a multiple of ${MIN_IO_BYTES} from ${MIN_IO_BYTES} to ${MAX_IO_BYTES} (32 MiB)`, value)
  }
  return bytes
}

function checkSlab({ depth, maxIoBytes }: CheckedOptions): void {
  const bytes = slotCount(depth) * maxIoBytes
  if (bytes <= MAX_SLAB_BYTES) return
  throw outOfRange('depth × maxIoBytes', `at most ${MAX_SLAB_BYTES} bytes of buffers per queue (take a smaller depth or maxIoBytes)`, bytes)
}

function checkCpus(value: number[]): number[] {
  if (!Array.isArray(value)) throw invalidType('cpus', 'an array of CPU numbers', value)
  if (value.length === 0) throw invalidValue('cpus', 'an array with at least one CPU number', value)
  return value.map((cpu) => integer('cpus', cpu, 0, 65_535))
}

function optional<T, U>(value: T | undefined, check: (value: T) => U): U | null {
  return value === undefined ? null : check(value)
}

function integer(name: string, value: number, min: number, max: number): number {
  if (typeof value !== 'number') throw invalidType(name, 'a number', value)
  if (!Number.isInteger(value) || value < min || value > max) throw outOfRange(name, `a whole number from ${min} to ${max}`, value)
  return value
}

function boolean(name: string, value: boolean): boolean {
  if (typeof value !== 'boolean') throw invalidType(name, 'a boolean', value)
  return value
}

function oneOf<T extends string>(name: string, value: T, values: T[]): T {
  if (typeof value !== 'string') throw invalidType(name, `one of '${values.join("', '")}'`, value)
  if (!values.includes(value)) throw invalidValue(name, `one of '${values.join("', '")}'`, value)
  return value
}
