/** TARGET of `ublk add` and the flags of its own: from arguments to plain data. */

import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { IntegrityOptions } from 'ublk'
import { EXIT, Failure, usage } from './failure.ts'
import { type FaultFlags, faultFlags, firstFaultFlag, parseFaults } from './faults.ts'
import type { TargetSpec } from './target.ts'
import { parseDurationMs } from './units.ts'
import { firstZoneFlag, parseZones, type ZoneFlags } from './zones.ts'

/** Flags of `add` that belong to some targets only. */
export interface TargetFlags extends FaultFlags, ZoneFlags {
  direct: boolean
  create: boolean
  chunk?: string | undefined
  timeout?: string | undefined
  patience?: string | undefined
  set: string[]
}

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
  if (target.type !== 'nbd' && flags.patience !== undefined) throw usage(`--patience is for nbd targets only, not for ${type}`)
  if (target.type !== 'nbd' && target.type !== 'module' && flags.timeout !== undefined)
    throw usage(`--timeout is for nbd targets and modules only, not for ${type}`, 'A native target waits for nobody.')
  if (target.type !== 'module' && flags.set.length > 0) throw usage(`--set is for module targets only, not for ${type}`)
  return target
}

function targetOf(type: string, rest: string[], flags: TargetFlags): TargetSpec {
  const { direct, create, chunk, timeout, patience } = flags
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
      return {
        type,
        uri: parseUri(rest),
        ...(timeout !== undefined && { requestTimeoutMs: parseDurationMs(timeout, '--timeout') }),
        ...(patience !== undefined && { patienceMs: parseDurationMs(patience, '--patience') }),
      }
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

/** `0-3,8` as the numbers that it stands for: the form of cpuset(7). */
export function parseCpus(text: string): number[] {
  const cpus = text.split(',').flatMap((range) => {
    const [, first, last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(range) ?? []
    const [from, to] = [Number(first), Number(last)]
    if (!(from <= to && to <= MAX_CPU))
      throw usage(`--cpus ${text} is no list of CPUs`, 'Write it as 0-3,8; `lscpu -e` shows those of this machine.')
    return Array.from({ length: to - from + 1 }, (_, index) => from + index)
  })
  return [...new Set(cpus)]
}

const MAX_CPU = 65_535

const INTEGRITY_FORM = 'Example: --integrity size=8,csum=t10dif,pi-offset=0,tag-size=2,reftag.'

/** `size=8,csum=t10dif,reftag` as the library's option. */
export function parseIntegrity(text: string): IntegrityOptions {
  const options: IntegrityOptions = {}
  for (const part of text.split(',')) {
    const [name, value, rest] = part.split('=')
    if (rest !== undefined) throw noPart(part)
    if (value === undefined && (name === 'reftag' || name === 'capable')) options[name] = true
    else if (name === 'csum' && value !== undefined) options.csum = value as NonNullable<IntegrityOptions['csum']>
    else if (/^(size|pi-offset|tag-size)=\d+$/.test(part)) {
      options[({ size: 'size', 'pi-offset': 'piOffset', 'tag-size': 'tagSize' } as const)[name as 'size']] = Number(value)
    } else throw noPart(part)
  }
  return options
}

function noPart(part: string): Failure {
  return usage(`--integrity has no part ${JSON.stringify(part)}`, INTEGRITY_FORM)
}
