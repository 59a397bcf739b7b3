/**
 * The native targets, and backends in workers, as values for the option `backend`.
 *
 * Thread: any. These objects are descriptions: nothing is opened before the device is created.
 */
import { resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { invalidType, invalidValue } from './errors.ts'
import type { TargetSpec } from './native.ts'
import { parseSize, type Size } from './size.ts'

/** A target that runs in native code, made by `memory`, `file` or `nullTarget`. */
export class NativeTarget {
  /** 'null', 'mem' or 'file'. */
  readonly kind: 'null' | 'mem' | 'file'
  /** @internal */
  readonly spec: TargetSpec

  /** @internal */
  constructor(spec: TargetSpec) {
    this.kind = spec.kind
    this.spec = spec
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

/** Options of `file`. */
export interface FileOptions {
  /** Image file or block device. */
  path: string | URL
  /** Size of the device; default the size the file has. */
  size?: Size
  /** Bypass the page cache (O_DIRECT). Default false. */
  direct?: boolean
  /** Make the file if it is missing, and grow it if it is shorter than `size`. Default false. */
  create?: boolean
  /** Open for reading only: the device is read-only. Default false. */
  readOnly?: boolean
}

/** RAM: memory appears on the first write of a page and goes back on discard. The data ends with the process. */
export function memory(options: MemoryOptions = {}): NativeTarget {
  return new NativeTarget({ ...EMPTY, kind: 'mem', sizeBytes: optionalSize(options, 'memory') })
}

/** Completes every request and stores nothing: what is read is zeroes. For measuring. */
export function nullTarget(options: MemoryOptions = {}): NativeTarget {
  return new NativeTarget({ ...EMPTY, kind: 'null', sizeBytes: optionalSize(options, 'nullTarget') })
}

/** An image file or a block device; a path alone stands for `{ path }`. */
export function file(options: FileOptions | string | URL): NativeTarget {
  const given: FileOptions = typeof options === 'string' || options instanceof URL ? { path: options } : options
  const sizeBytes = optionalSize(given, 'file')
  const { path, direct = false, create = false, readOnly = false } = given
  if (typeof path !== 'string' && !(path instanceof URL)) throw invalidType('file.path', 'a string or a file: URL', path)
  if (path === '') throw invalidValue('file.path', 'the path of a file or block device', path)
  for (const [name, value] of Object.entries({ direct, create, readOnly })) {
    if (typeof value !== 'boolean') throw invalidType(`file.${name}`, 'a boolean', value)
  }
  return new NativeTarget({
    kind: 'file',
    sizeBytes,
    path: path instanceof URL ? fileURLToPath(path) : resolve(path),
    direct,
    create,
    readOnly,
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

const EMPTY: TargetSpec = { kind: 'null', sizeBytes: null, path: null, direct: false, create: false, readOnly: false }

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
