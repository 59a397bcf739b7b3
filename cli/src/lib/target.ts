/**
 * What a server is told: the target of a device and its options as plain data, which travels to the server and is kept in its state; and the
 * backend that they become. parse-target.ts makes it of arguments.
 *
 * A server loads this before its device goes on: nothing of the command line belongs here.
 */

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
import type { Zones } from './zones.ts'

export type TargetSpec =
  | { type: 'null' }
  | { type: 'mem' }
  | { type: 'file'; path: string; direct: boolean; create: boolean }
  | { type: 'stripe'; paths: string[]; chunk?: string; direct: boolean; create: boolean }
  | { type: 'mirror'; paths: string[]; direct: boolean; create: boolean }
  | { type: 'zoned'; path?: string; zones: Zones }
  | { type: 'nbd'; uri: string; requestTimeoutMs?: number; patienceMs?: number }
  | { type: 'fault'; over: TargetSpec; faults: FaultOptions }
  | { type: 'module'; path: string; options: Record<string, string> }

/** Options of a device that are the same for every target; what is absent is the library's default. */
export interface DeviceSpec extends QueueOptions, RequestMemoryOptions {
  id?: number
  queues?: number
  depth?: number
  size?: string
  blockSize?: number
  physicalBlockSize?: number
  maxIoBytes?: string
  readOnly?: true
  rotational?: true
  recovery?: Recovery
  unprivileged?: true
  integrity?: IntegrityOptions
  requestTimeoutMs?: number
  cpus?: number[]
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

/** The size that kublk gives its null device: large enough for any test, and it costs nothing. */
export const NULL_SIZE = '250GiB'

/** Whether its data may come from, and go to, whoever steps in on the way to a server with TLS. */
export function isUnverified(target: TargetSpec): boolean {
  if (target.type === 'fault') return isUnverified(target.over)
  return target.type === 'nbd' && URL.parse(target.uri)?.searchParams.get('tls-verify-peer') === 'false'
}

/** The target below all faults: the one that has the bytes. */
export function baseOf(target: TargetSpec): TargetSpec {
  return target.type === 'fault' ? baseOf(target.over) : target
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
      return ublk.nbd(target.uri, given(target, ['requestTimeoutMs', 'patienceMs']))
    case 'fault':
      return ublk.fault(nativeTarget(ublk, target.over as typeof target), target.faults)
  }
}

/** What serves an existing device as `spec` says. */
export async function recoverOptions({ target, device }: ServeSpec): Promise<RecoverOptions> {
  const { backend } = await deviceOptions({ target, device: {} })
  return { backend, ...given(device, ['cpus', 'requestTimeoutMs', 'threads', 'perIo', 'fixedFiles', 'preempt', 'zeroCopyFallback']) }
}

/** Those of the fields that are there. */
function given<T, Name extends keyof T>(fields: T, names: Name[]): Partial<Pick<T, Name>> {
  return Object.fromEntries(names.filter((name) => fields[name] !== undefined).map((name) => [name, fields[name]])) as Partial<
    Pick<T, Name>
  >
}

/** Names of the library's options and the flags that set them: errors speak of what was typed. */
const FLAG_OF_OPTION: [option: RegExp, flag: string][] = [
  [/^(?!integrity)(?:\w+\.)?size (?=must)/, '--size '],
  [/^id (?=must)/, '--id '],
  [/^queues (?=must)/, '--queues '],
  [/^depth(?= must| ×)/, '--depth'],
  [/^blockSize (?=must)/, '--block-size '],
  [/^physicalBlockSize (?=must)/, '--physical-block-size '],
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
  [/^(?:nbd\.)?patienceMs (?=must)/, '--patience in milliseconds '],
  [/^cpus (?=must)/, '--cpus '],
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
