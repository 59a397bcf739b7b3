/** TARGET of `ublk add`: from arguments to plain data (which travels to the server and is kept in its state), to a backend. */

import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type {
  DeviceOptions,
  FaultOptions,
  IntegrityOptions,
  NativeTarget,
  QueueOptions,
  RecoverOptions,
  Recovery,
  RequestMemoryOptions,
} from 'ublk'
import { EXIT, Failure, usage } from './failure.ts'
import { type FaultFlags, faultFlags, firstFaultFlag, parseFaults } from './faults.ts'
import { parseDurationMs } from './units.ts'
import { firstZoneFlag, parseZones, type ZoneFlags, type Zones } from './zones.ts'

export type TargetSpec =
  | { type: 'null' }
  | { type: 'mem' }
  | { type: 'file'; path: string; direct: boolean; create: boolean }
  | { type: 'stripe'; paths: string[]; chunk?: string; direct: boolean; create: boolean }
  | { type: 'mirror'; paths: string[]; direct: boolean; create: boolean }
  | { type: 'zoned'; path?: string; zones: Zones }
  | { type: 'nbd'; uri: string; requestTimeoutMs?: number }
  | { type: 'fault'; over: TargetSpec; faults: FaultOptions }
  | { type: 'module'; path: string; options: Record<string, string> }

/** Options of a device that are the same for every target; what is absent is the library's default. */
export interface DeviceSpec extends QueueOptions, RequestMemoryOptions {
  id?: number
  queues?: number
  depth?: number
  size?: string
  blockSize?: number
  maxIoBytes?: string
  readOnly?: true
  recovery?: Recovery
  unprivileged?: true
  integrity?: IntegrityOptions
  requestTimeoutMs?: number
}

/** All that a server is told, and all that is needed to serve the device again. Plain data. */
export interface ServeSpec {
  target: TargetSpec
  device: DeviceSpec
  /** Absent for a device that nobody keeps up. */
  keeper?: Keeper
}

/** The `ublk serve` that keeps a device up: which entry of which FILE it is. */
export interface Keeper {
  /** Absolute. */
  file: string
  name: string
  /** The words of `ublk add` in the entry. */
  add: string[]
}

/** Flags of `add` that belong to some targets only. */
export interface TargetFlags extends FaultFlags, ZoneFlags {
  direct: boolean
  create: boolean
  chunk?: string | undefined
  timeout?: string | undefined
  set: string[]
}

/** The size that kublk gives its null device: large enough for any test, and it costs nothing. */
export const NULL_SIZE = '250GiB'

const FORMS =
  'TARGET is `null`, `mem`, `file PATH`, `stripe PATH PATH…`, `mirror PATH PATH…`, `zoned [PATH]`, `nbd URI`, `fault --over TARGET`, or the path of a module such as `./backend.ts`.'

/** Targets over files: how many paths they take. */
const PATHS = {
  file: { least: 1, most: 1 },
  stripe: { least: 2, most: 255 },
  mirror: { least: 2, most: 8 },
  zoned: { least: 0, most: 1 },
} as const

/** Reads TARGET and its own flags; paths become absolute, for the server runs in `/`. */
export function parseTarget(words: string[], flags: TargetFlags): TargetSpec {
  const [type, ...rest] = words
  if (type === undefined) throw usage('add needs a TARGET', FORMS)
  if (type === 'fault') return parseFault(rest, flags)
  const target = targetOf(type, rest, flags)
  const faultFlag = firstFaultFlag(flags)
  if (faultFlag !== undefined)
    throw usage(`--${faultFlag} is for fault only, not for ${type}`, 'Example: `ublk add fault --over mem -s 1G --delay 10ms`.')
  const isOverFiles = type in PATHS
  const [stranger] = isOverFiles || type === 'nbd' ? [] : rest
  if (stranger !== undefined) throw usage(`unexpected argument ${stranger}`, FORMS)
  if ((!isOverFiles || type === 'zoned') && (flags.direct || flags.create)) {
    throw usage(`${flags.direct ? '--direct' : '--create'} is for file, stripe and mirror targets only, not for ${type}`)
  }
  const zoneFlag = firstZoneFlag(flags)
  if (target.type !== 'zoned' && zoneFlag !== undefined) throw usage(`--${zoneFlag} is for zoned targets only, not for ${type}`)
  if (target.type !== 'stripe' && flags.chunk !== undefined) throw usage(`--chunk is for stripe targets only, not for ${type}`)
  if (target.type !== 'module' && flags.set.length > 0) throw usage(`--set is for module targets only, not for ${type}`)
  return target
}

function targetOf(type: string, rest: string[], flags: TargetFlags): TargetSpec {
  const { direct, create, chunk, timeout } = flags
  switch (type) {
    case 'null':
    case 'mem':
      return { type }
    case 'file':
      return { type, path: parsePaths(type, rest)[0] as string, direct, create }
    case 'stripe':
      return { type, paths: parsePaths(type, rest), ...(chunk !== undefined && { chunk }), direct, create }
    case 'mirror':
      return { type, paths: parsePaths(type, rest), direct, create }
    case 'zoned': {
      const [path] = parsePaths(type, rest)
      return { type, ...(path !== undefined && { path }), zones: parseZones(flags) }
    }
    case 'nbd':
      return { type, uri: parseUri(rest), ...(timeout !== undefined && { requestTimeoutMs: parseDurationMs(timeout, '--timeout') }) }
  }
  if (/[/.]/.test(type)) return { type: 'module', path: modulePath(type), options: parseSettings(flags.set) }
  throw usage(`there is no target ${JSON.stringify(type)}`, FORMS)
}

function parsePaths(type: keyof typeof PATHS, words: string[]): string[] {
  const { least, most } = PATHS[type]
  if (words.length === 0 && type === 'file') {
    throw usage('file needs the path of an image or a block device', 'Example: `ublk add file ./disk.img`.')
  }
  if (words.length < least) throw usage(`${type} needs the paths of ${least} or more images or block devices`, FORMS)
  if (words.length > most) throw usage(`unexpected argument ${words[most]}`, FORMS)
  return words.map((word) => resolve(word))
}

function parseUri([uri, stranger]: string[]): string {
  if (uri === undefined) throw usage('nbd needs a URI', 'Example: `ublk add nbd nbd://10.0.0.5/disk`.')
  if (stranger !== undefined) throw usage(`unexpected argument ${stranger}`, FORMS)
  const path = /(?<=[?&](?:socket|tls-certificates)=)(?!\/|%2F)[^&#]+/gi
  return uri.replace(path, (relative) => encodeURIComponent(resolve(decodeURIComponent(relative))))
}

/** Whether its data may come from, and go to, whoever steps in on the way to a server with TLS. */
export function isUnverified(target: TargetSpec): boolean {
  if (target.type === 'fault') return isUnverified(target.over)
  return target.type === 'nbd' && URL.parse(target.uri)?.searchParams.get('tls-verify-peer') === 'false'
}

/** A fault takes what is below it from `--over`; the other flags of targets are those of that one. */
function parseFault([stranger]: string[], flags: TargetFlags): TargetSpec {
  const example = 'Example: `ublk add fault --over file ./disk.img --delay 10ms`.'
  if (stranger !== undefined) throw usage(`unexpected argument ${stranger}`, example)
  if (flags.over === undefined) throw usage('fault needs the target below it: --over TARGET', example)
  const below = { ...flags, ...Object.fromEntries(Object.keys(faultFlags).map((name) => [name, undefined])) }
  const over = parseTarget(flags.over, below)
  if (over.type === 'module') throw usage('fault is for native targets only, not for modules', example)
  return { type: 'fault', over, faults: parseFaults(flags) }
}

/** The target below all faults: the one that has the bytes. */
export function baseOf(target: TargetSpec): TargetSpec {
  return target.type === 'fault' ? baseOf(target.over) : target
}

function modulePath(text: string): string {
  const path = text.startsWith('file:') ? fileURLToPath(text) : resolve(text)
  // Looked for here and not in the server, because the sentence is clearer than a loader's.
  if (statSync(path, { throwIfNoEntry: false })?.isFile() === true) return path
  throw new Failure({
    code: 'ERR_UBLK_BACKEND',
    message: `there is no module ${path}`,
    hint: FORMS,
    exitCode: EXIT.failed,
  })
}

/** `key=value` pairs as an object; values stay text, a later pair wins. */
export function parseSettings(pairs: string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf('=')
      if (at < 1) throw usage(`--set ${pair} is not of the form key=value`)
      return [pair.slice(0, at), pair.slice(at + 1)]
    }),
  )
}

const INTEGRITY_FORM = 'Example: --integrity size=8,csum=t10dif,pi-offset=0,tag-size=2,reftag.'

/** `size=8,csum=t10dif,reftag` as the library's option. */
export function parseIntegrity(text: string): IntegrityOptions {
  const options: IntegrityOptions = {}
  for (const part of text.split(',')) {
    const [name, value] = part.split('=', 2)
    if (value === undefined && (name === 'reftag' || name === 'capable')) options[name] = true
    else if (name === 'csum' && value !== undefined) options.csum = value as NonNullable<IntegrityOptions['csum']>
    else if (/^(size|pi-offset|tag-size)=\d+$/.test(part)) {
      options[({ size: 'size', 'pi-offset': 'piOffset', 'tag-size': 'tagSize' } as const)[name as 'size']] = Number(value)
    } else throw usage(`--integrity has no part ${JSON.stringify(part)}`, INTEGRITY_FORM)
  }
  return options
}

/** The library's options for what a server was told. */
export async function deviceOptions({ target, device }: ServeSpec): Promise<DeviceOptions> {
  const ublk = await import('ublk')
  const size = baseOf(target).type === 'null' ? { size: NULL_SIZE } : {}
  const backend = target.type === 'module' ? ublk.worker(target.path, { options: target.options }) : nativeTarget(ublk, target)
  return { backend, ...size, ...device }
}

type Library = Pick<typeof import('ublk'), 'fault' | 'file' | 'memory' | 'mirror' | 'nbd' | 'nullTarget' | 'stripe' | 'zoned'>

function nativeTarget(ublk: Library, target: Exclude<TargetSpec, { type: 'module' }>): NativeTarget {
  switch (target.type) {
    case 'null':
      return ublk.nullTarget()
    case 'mem':
      return ublk.memory()
    case 'file':
      return ublk.file({ path: target.path, direct: target.direct, create: target.create })
    case 'stripe': {
      const { paths, chunk, direct, create } = target
      return ublk.stripe({ paths, direct, create, ...(chunk !== undefined && { chunk }) })
    }
    case 'mirror':
      return ublk.mirror({ paths: target.paths, direct: target.direct, create: target.create })
    case 'zoned':
      return ublk.zoned({ ...target.zones, ...(target.path !== undefined && { path: target.path }) })
    case 'nbd':
      return ublk.nbd(target.uri, { ...(target.requestTimeoutMs !== undefined && { requestTimeoutMs: target.requestTimeoutMs }) })
    case 'fault':
      return ublk.fault(nativeTarget(ublk, target.over as typeof target), target.faults)
  }
}

/** What serves an existing device as `spec` says: nothing is made anew that may hold its data. */
export async function recoverOptions({ target, device }: ServeSpec): Promise<RecoverOptions> {
  const { backend } = await deviceOptions({ target: existing(target), device: {} })
  const names = ['requestTimeoutMs', 'threads', 'perIo', 'fixedFiles', 'preempt', 'zeroCopyFallback'] as const
  return { backend, ...Object.fromEntries(names.filter((name) => device[name] !== undefined).map((name) => [name, device[name]])) }
}

function existing(target: TargetSpec): TargetSpec {
  if (target.type === 'fault') return { ...target, over: existing(target.over) }
  return 'create' in target ? { ...target, create: false } : target
}

/** Names of the library's options and the flags that set them: errors speak of what was typed. */
const FLAG_OF_OPTION: [option: RegExp, flag: string][] = [
  [/^(?!integrity)(?:\w+\.)?size (?=must)/, '--size '],
  [/^id (?=must)/, '--id '],
  [/^queues (?=must)/, '--queues '],
  [/^depth(?= must| ×)/, '--depth'],
  [/^blockSize (?=must)/, '--block-size '],
  [/^maxIoBytes (?=must)/, '--max-io '],
  [/^readOnly (?=must)/, '--read-only '],
  [/^recovery (?=must)/, '--recovery '],
  [/^dataPath (?=must)/, '--data-path '],
  [/^dmaAlignment (?=must)/, '--dma-align '],
  [/^maxSegments (?=must)/, '--max-segments '],
  [/^maxSegmentSize (?=must)/, '--max-segment-size '],
  [/^segmentBoundary (?=must)/, '--segment-boundary '],
  [/^zeroCopyFallback (?=must)/, '--zero-copy-fallback '],
  [/^sharedMemory (?=must)/, '--shmem '],
  [/^threads (?=must)/, '--threads '],
  [/^perIo (?=must)/, '--per-io '],
  [/^batch (?=must)/, '--batch '],
  [/^fixedFiles (?=must)/, '--no-fixed-files '],
  [/^preempt (?=must)/, '--no-preempt '],
  [/^zoneSize (?=must)/, '--zone-size '],
  [/^zoneCapacity (?=must)/, '--zone-capacity '],
  [/^conventionalZones (?=must)/, '--conventional '],
  [/^maxOpen (?=must)/, '--max-open '],
  [/^maxActive (?=must)/, '--max-active '],
  [/^integrity\.piOffset (?=must)/, '--integrity pi-offset '],
  [/^integrity\.tagSize (?=must)/, '--integrity tag-size '],
  [/^integrity\./, '--integrity '],
  [/^unprivileged (?=must)/, '--unprivileged '],
  [/^integrity (?=must)/, '--integrity '],
  [/^(?:nbd\.)?requestTimeoutMs (?=must)/, '--timeout in milliseconds '],
  [/^stripe\.chunk (?=must)/, '--chunk '],
  [/^fault\.delayMs (?=must)/, '--delay in milliseconds '],
  [/^fault\.errorRange\.(?:begin|end) (?=must)/, '--error-range '],
  [/^fault\.seed (?=must)/, '--seed '],
  [/^fault\.dieAfter (?=must)/, '--die-after '],
]

export function withFlagNames(message: string): string {
  const found = FLAG_OF_OPTION.find(([option]) => option.test(message))
  return found === undefined ? message : message.replace(found[0], found[1])
}

/** One line for tables. */
export function formatTarget(target: TargetSpec): string {
  switch (target.type) {
    case 'file':
      return `file ${target.path}`
    case 'stripe':
    case 'mirror':
      return [target.type, ...target.paths].join(' ')
    case 'zoned':
      return target.path === undefined ? 'zoned' : `zoned ${target.path}`
    case 'fault':
      return `fault over ${formatTarget(target.over)}`
    case 'nbd':
      return `nbd ${target.uri}`
    case 'module':
      return target.path
    default:
      return target.type
  }
}
