/**
 * The native targets, and backends in workers, as values for the option `backend`.
 *
 * Thread: any. These objects are descriptions: nothing is opened before the device is created.
 */
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { invalidType, invalidValue, outOfRange } from './errors.ts'
import type { FaultSpec, TargetSpec } from './native.ts'
import { type NbdTlsOptions, nbdServer } from './nbd.ts'
import { checkPath } from './path.ts'
import type { OperationName } from './request.ts'
import { parseSize, type Size } from './size.ts'
import { checkZones, type ZonedOptions } from './zones.ts'

/** A target that runs in native code, made by `memory`, `file`, `stripe`, `mirror`, `zoned`, `nbd`, `fault` or `nullTarget`. */
export class NativeTarget {
  /** 'null', 'mem', 'file', 'stripe', 'mirror', 'zoned', 'nbd' or 'fault'. */
  readonly kind: TargetSpec['kind']
  /** @internal */
  readonly spec: TargetSpec

  /** @internal */
  constructor(spec: Partial<TargetSpec> & Pick<TargetSpec, 'kind'>) {
    this.kind = spec.kind
    this.spec = { ...EMPTY, ...spec }
  }
}

/** A backend module that runs in worker threads, one per queue, made by `worker`. */
export class WorkerBackend {
  /** Module URL. */
  readonly url: string
  /** Handed to the module's factory. */
  readonly options: Record<string, unknown>

  /** @internal */
  constructor(url: string, options: Record<string, unknown>) {
    this.url = url
    this.options = options
  }
}

/** Options of `memory` and `nullTarget`. */
export interface MemoryOptions {
  /** Size of the device; required here or as the device's `size`. */
  size?: Size
}

/** What the targets over files and block devices have in common. */
export interface FilesOptions {
  /** Size of the device; default the size that the files have. */
  size?: Size
  /** Bypass the page cache (O_DIRECT). Default false. */
  direct?: boolean
  /** Make files that are missing, and grow those that are shorter than `size` needs. Default false. */
  create?: boolean
  /** Open for reading only: the device is read-only. Default false. */
  readOnly?: boolean
}

/** Options of `file`. */
export interface FileOptions extends FilesOptions {
  /** Image file or block device. */
  path: string | URL
}

/** Options of `mirror`. */
export interface LegsOptions extends FilesOptions {
  /** Image files or block devices: 2 to 8 for a mirror, 2 to 255 for a stripe. Always in the same order. */
  paths: (string | URL)[]
}

/** Options of `stripe`. */
export interface StripeOptions extends LegsOptions {
  /** Bytes that go to one leg before the next: a power of two from 4096 to 1 GiB. Default 64 KiB. */
  chunk?: Size
}

/** Options of `nbd`. */
export interface NbdOptions {
  /** Size of the device; default that of the export, and never more. */
  size?: Size
  /** Send no writes: the device is read-only. Default false, and true for an export that is only read. */
  readOnly?: boolean
  /**
   * How long requests wait for a connection that was lost, in milliseconds, up to an hour, before they fail with EIO. Default 20000; an
   * unprivileged device waits no longer than 15000.
   */
  patienceMs?: number
  /**
   * How long the server may take for an answer, in milliseconds, up to an hour, before its connection counts as lost and is made again; data of
   * a long answer that keeps coming counts, too. What no new connection gets an answer to either fails with EIO when it has waited for
   * `patienceMs` since. Default 0, which waits without end; an unprivileged device waits no longer than 10000, and 28000 in all.
   */
  requestTimeoutMs?: number
  /** For `nbds:` and `nbds+unix:`: whom to trust. Default: this system's authorities, and a certificate for the host of the URI. */
  tls?: NbdTlsOptions
}

/** Options of `fault`. What is not given does not happen. */
export interface FaultOptions {
  /** Every request waits this long first, in milliseconds, up to an hour; less than 28000 for an unprivileged device, all layers together. */
  delayMs?: number
  /** Share of the requests that fail with EIO, 0 to 1. Default 1 where `errorOps` or `errorRange` is given, else 0. */
  errorRate?: number
  /** Operations that may fail; default all. */
  errorOps?: OperationName[]
  /** Bytes of the device, from `begin` up to but not `end`, that a request must touch to fail; default anywhere. */
  errorRange?: { begin: Size; end: Size }
  /** Share of the writes, 0 to 1, of which some of the first blocks are written before the request fails with EIO. */
  tornWriteRate?: number
  /** Decides which requests are hit: the n-th request of an operation meets the same fate every time. A whole number; default 0. */
  seed?: number
  /** Kill this process (SIGKILL) when a request has come ('fetch'), or when it has been done and before it is answered ('commit'). */
  dieAt?: 'fetch' | 'commit'
  /** At which request that changes the device: write, flush, discard, write-zeroes; reads come unasked and do not count. From 1, the default. */
  dieAfter?: number
}

/** RAM: memory appears on the first write of a page and goes back on discard. The data ends with the process. */
export function memory(options: MemoryOptions = {}): NativeTarget {
  return new NativeTarget({ kind: 'mem', sizeBytes: optionalSize(options, 'memory') })
}

/** Completes every request and stores nothing: what is read is zeroes. For measuring. */
export function nullTarget(options: MemoryOptions = {}): NativeTarget {
  return new NativeTarget({ kind: 'null', sizeBytes: optionalSize(options, 'nullTarget') })
}

/** An image file or a block device; a path alone stands for `{ path }`. */
export function file(options: FileOptions | string | URL): NativeTarget {
  const given: FileOptions = typeof options === 'string' || options instanceof URL ? { path: options } : options
  return new NativeTarget({ kind: 'file', ...checkFiles('file', given), paths: [checkPath('file.path', given.path)] })
}

/**
 * Several files or block devices as one device, chunk by chunk in turn (RAID 0): its size is that of the smallest, in whole chunks, times their
 * number. What one of them fails, the device fails. They hold nothing but data: give them in the same order, and the same chunk, every time.
 */
export function stripe(options: StripeOptions): NativeTarget {
  const files = checkFiles('stripe', options)
  const chunkBytes = parseSize(options.chunk ?? DEFAULT_CHUNK_BYTES, 'stripe.chunk')
  if (chunkBytes < MIN_CHUNK_BYTES || chunkBytes > MAX_CHUNK_BYTES || (chunkBytes & (chunkBytes - 1)) !== 0) {
    throw outOfRange('stripe.chunk', `a power of two from ${MIN_CHUNK_BYTES} to ${MAX_CHUNK_BYTES} (1 GiB)`, options.chunk)
  }
  return new NativeTarget({ kind: 'stripe', ...files, chunkBytes, paths: checkLegs('stripe.paths', options.paths, MOST_STRIPE_LEGS) })
}

/**
 * The same data on several files or block devices (RAID 1). A write goes to all, reads take turns; one that fails is left out (event `warning`,
 * and `stats().legs`), and is brought up to date when the mirror is opened again. Each keeps a record behind its data: see docs/targets.md.
 * With `create`, files that are no legs yet become ones: the first that has data is what the others are made the same as.
 */
export function mirror(options: LegsOptions): NativeTarget {
  return new NativeTarget({
    kind: 'mirror',
    ...checkFiles('mirror', options),
    paths: checkLegs('mirror.paths', options.paths, MOST_MIRROR_LEGS),
  })
}

/** A zoned disk: its sequential zones are written at their write pointers only. In memory, or in a file with `PATH.zones` beside it. */
export function zoned(options: ZonedOptions = {}): NativeTarget {
  const sizeBytes = optionalSize(options, 'zoned')
  const paths = options.path === undefined ? [] : [checkPath('zoned.path', options.path)]
  return new NativeTarget({ kind: 'zoned', sizeBytes, paths, zoned: checkZones(options) })
}

/**
 * An export of an NBD server. A connection that is lost is made again, and what was not answered is asked again (event `warning`).
 * @param uri `nbd://HOST[:PORT]/EXPORT`, or `nbd+unix:///EXPORT?socket=PATH`; without EXPORT the server's default. With TLS, and never without,
 *   `nbds://` and `nbds+unix://`; their parameters are `tls-certificates=DIR`, `tls-hostname=NAME` and `tls-verify-peer=false`
 */
export function nbd(uri: string | URL, options: NbdOptions = {}): NativeTarget {
  const sizeBytes = optionalSize(options, 'nbd')
  const { readOnly = false, patienceMs = DEFAULT_PATIENCE_MS, requestTimeoutMs = 0, tls } = options
  if (typeof readOnly !== 'boolean') throw invalidType('nbd.readOnly', 'a boolean', readOnly)
  const spec = {
    ...nbdServer(uri, tls),
    patienceMs: checkNumber('nbd.patienceMs', patienceMs, MAX_DELAY_MS),
    requestTimeoutMs: checkNumber('nbd.requestTimeoutMs', requestTimeoutMs, MAX_DELAY_MS) || null,
    deadlineMs: null,
  }
  return new NativeTarget({ kind: 'nbd', sizeBytes, readOnly, nbd: spec })
}

/** A layer over another native target that delays requests, fails them, tears writes, or kills this process: for tests of what is above it. */
export function fault(over: NativeTarget, options: FaultOptions): NativeTarget {
  if (!(over instanceof NativeTarget)) throw invalidType('fault over', 'a native target such as file()', over)
  if (typeof options !== 'object' || options === null) throw invalidType('fault options', 'an object', options)
  const { delayMs = 0, errorOps = [], errorRange, tornWriteRate = 0, seed = 0, dieAt = null, dieAfter = 1 } = options
  const ops = checkOps(errorOps)
  const isLimited = ops.length > 0 || errorRange !== undefined
  const { errorRate = isLimited ? 1 : 0 } = options
  const range = errorRange === undefined ? null : checkRange(errorRange)
  if (dieAt !== null && dieAt !== 'fetch' && dieAt !== 'commit') throw invalidValue('fault.dieAt', "'fetch' or 'commit'", dieAt)
  return new NativeTarget({
    kind: 'fault',
    over: [over.spec],
    faults: {
      delayMs: checkNumber('fault.delayMs', delayMs, MAX_DELAY_MS),
      errorRate: checkNumber('fault.errorRate', errorRate, 1),
      errorOps: ops,
      errorBegin: range?.begin ?? null,
      errorEnd: range?.end ?? null,
      tornWriteRate: checkNumber('fault.tornWriteRate', tornWriteRate, 1),
      seed: checkWhole('fault.seed', seed, 0),
      dieAt,
      dieAfter: checkWhole('fault.dieAfter', dieAfter, 1),
    },
  })
}

/**
 * A backend module run in one worker thread per queue. `createDevice({ backend: url })` is the short form.
 * @param url module URL, or a path from the current folder; its default export is a backend or a `BackendFactory`
 * @param init.options handed to the factory; must survive a structured clone
 */
export function worker(url: URL | string, init: { options?: Record<string, unknown> } = {}): WorkerBackend {
  const { options = {} } = init
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw invalidType('worker.options', 'an object', options)
  }
  try {
    structuredClone(options)
  } catch {
    throw invalidValue('worker.options', 'plain data (it is cloned for each worker)', options)
  }
  return new WorkerBackend(moduleUrl(url), options)
}

const EMPTY: TargetSpec = {
  kind: 'null',
  sizeBytes: null,
  paths: [],
  direct: false,
  create: false,
  readOnly: false,
  chunkBytes: null,
  over: [],
  faults: null,
  zoned: null,
  nbd: null,
}

/** A page; and far more than a request, whose parts the legs share. */
const MIN_CHUNK_BYTES = 4096
const MAX_CHUNK_BYTES = 1 << 30
const DEFAULT_CHUNK_BYTES = 65536

const MOST_STRIPE_LEGS = 255
const MOST_MIRROR_LEGS = 8

const DEFAULT_PATIENCE_MS = 20_000

/** An hour: longer is a typing error. */
const MAX_DELAY_MS = 3_600_000

const NATIVE_OPS: Record<OperationName, FaultSpec['errorOps'][number]> = {
  read: 'read',
  write: 'write',
  flush: 'flush',
  discard: 'discard',
  writeZeroes: 'write_zeroes',
}

type FilesSpec = Pick<TargetSpec, 'sizeBytes' | 'direct' | 'create' | 'readOnly'>

function checkFiles(name: string, options: FilesOptions): FilesSpec {
  const sizeBytes = optionalSize(options, name)
  const { direct = false, create = false, readOnly = false } = options
  for (const [option, value] of Object.entries({ direct, create, readOnly })) {
    if (typeof value !== 'boolean') throw invalidType(`${name}.${option}`, 'a boolean', value)
  }
  return { sizeBytes, direct, create, readOnly }
}

function checkLegs(name: string, paths: (string | URL)[], most: number): string[] {
  if (!Array.isArray(paths)) throw invalidType(name, 'an array of paths', paths)
  if (paths.length < 2 || paths.length > most) throw outOfRange(`${name}.length`, `from 2 to ${most}`, paths.length)
  return paths.map((path) => checkPath(name, path))
}

function checkRange(given: { begin: Size; end: Size }): { begin: number; end: number } {
  if (typeof given !== 'object' || given === null) throw invalidType('fault.errorRange', 'an object with begin and end', given)
  const { begin, end } = given
  const range = { begin: parseSize(begin, 'fault.errorRange.begin'), end: parseSize(end, 'fault.errorRange.end') }
  if (range.end <= range.begin) throw outOfRange('fault.errorRange.end', `more than its begin ${range.begin}`, end)
  return range
}

function checkOps(names: OperationName[]): FaultSpec['errorOps'] {
  if (!Array.isArray(names)) throw invalidType('fault.errorOps', 'an array of names of operations', names)
  return names.map((name) => {
    if (typeof name !== 'string' || !Object.hasOwn(NATIVE_OPS, name))
      throw invalidValue('fault.errorOps', `of ${Object.keys(NATIVE_OPS).join(', ')}`, name)
    return NATIVE_OPS[name]
  })
}

function checkNumber(name: string, value: number, most: number): number {
  if (typeof value !== 'number') throw invalidType(name, 'a number', value)
  if (!(value >= 0 && value <= most)) throw outOfRange(name, `from 0 to ${most}`, value)
  return value
}

function checkWhole(name: string, value: number, least: number): number {
  if (typeof value !== 'number') throw invalidType(name, 'a number', value)
  if (!Number.isSafeInteger(value) || value < least) throw outOfRange(name, `a whole number from ${least} on`, value)
  return value
}

function optionalSize(options: { size?: Size }, name: string): number | null {
  if (typeof options !== 'object' || options === null) throw invalidType(`${name} options`, 'an object', options)
  return options.size === undefined ? null : parseSize(options.size, `${name}.size`)
}

function moduleUrl(url: URL | string): string {
  if (url instanceof URL) return url.href
  if (typeof url !== 'string') throw invalidType('backend module', 'a URL or a path', url)
  if (url === '') throw invalidValue('backend module', 'a URL or a path', url)
  return /^(file|data):/.test(url) ? url : pathToFileURL(resolve(url)).href
}
