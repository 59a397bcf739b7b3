/** TARGET of `ublk add`: from arguments to plain data (which travels to the server and is kept in its state), to a backend. */

import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { DeviceOptions, QueueOptions, Recovery } from 'ublk'
import { EXIT, Failure, usage } from './failure.ts'

export type TargetSpec =
  | { type: 'null' }
  | { type: 'mem' }
  | { type: 'file'; path: string; direct: boolean; create: boolean }
  | { type: 'module'; path: string; options: Record<string, string> }

/** Options of a device that are the same for every target; what is absent is the library's default. */
export interface DeviceSpec extends QueueOptions {
  id?: number
  queues?: number
  depth?: number
  size?: string
  blockSize?: number
  maxIoBytes?: string
  readOnly?: true
  recovery?: Recovery
  requestTimeoutMs?: number
}

/** All that a server is told, and all that is needed to serve the device again. Plain data. */
export interface ServeSpec {
  target: TargetSpec
  device: DeviceSpec
}

/** Flags of `add` that belong to some targets only. */
export interface TargetFlags {
  direct: boolean
  create: boolean
  set: string[]
}

/** The size that kublk gives its null device: large enough for any test, and it costs nothing. */
export const NULL_SIZE = '250GiB'

const FORMS = 'TARGET is `null`, `mem`, `file PATH`, or the path of a module such as `./backend.ts`.'

/** Reads TARGET and its own flags; paths become absolute, for the server runs in `/`. */
export function parseTarget(words: string[], flags: TargetFlags): TargetSpec {
  const [type, ...rest] = words
  if (type === undefined) throw usage('add needs a TARGET', FORMS)
  const target = targetOf(type, rest, flags)
  const [stranger] = rest.slice(type === 'file' ? 1 : 0)
  if (stranger !== undefined) throw usage(`unexpected argument ${stranger}`, FORMS)
  if (target.type !== 'file' && (flags.direct || flags.create)) {
    throw usage(`${flags.direct ? '--direct' : '--create'} is for file targets only, not for ${type}`)
  }
  if (target.type !== 'module' && flags.set.length > 0) throw usage(`--set is for module targets only, not for ${type}`)
  return target
}

function targetOf(type: string, rest: string[], flags: TargetFlags): TargetSpec {
  if (type === 'null' || type === 'mem') return { type }
  if (type === 'file') {
    if (rest[0] === undefined) throw usage('file needs the path of an image or a block device', 'Example: `ublk add file ./disk.img`.')
    return { type, path: resolve(rest[0]), direct: flags.direct, create: flags.create }
  }
  if (/[/.]/.test(type)) return { type: 'module', path: modulePath(type), options: parseSettings(flags.set) }
  throw usage(`there is no target ${JSON.stringify(type)}`, FORMS)
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

/** The library's options for what a server was told. */
export async function deviceOptions({ target, device }: ServeSpec): Promise<DeviceOptions> {
  const { file, memory, nullTarget, worker } = await import('ublk')
  switch (target.type) {
    case 'null':
      return { backend: nullTarget(), size: NULL_SIZE, ...device }
    case 'mem':
      return { backend: memory(), ...device }
    case 'file':
      return { backend: file({ path: target.path, direct: target.direct, create: target.create }), ...device }
    case 'module':
      return { backend: worker(target.path, { options: target.options }), ...device }
  }
}

/** Names of the library's options and the flags that set them: errors speak of what was typed. */
const FLAG_OF_OPTION: [option: RegExp, flag: string][] = [
  [/^(?:\w+\.)?size (?=must)/, '--size '],
  [/^id (?=must)/, '--id '],
  [/^queues (?=must)/, '--queues '],
  [/^depth(?= must| ×)/, '--depth'],
  [/^blockSize (?=must)/, '--block-size '],
  [/^maxIoBytes (?=must)/, '--max-io '],
  [/^readOnly (?=must)/, '--read-only '],
  [/^recovery (?=must)/, '--recovery '],
  [/^dataPath (?=must)/, '--data-path '],
  [/^zeroCopyFallback (?=must)/, '--zero-copy-fallback '],
  [/^sharedMemory (?=must)/, '--shmem '],
  [/^threads (?=must)/, '--threads '],
  [/^perIo (?=must)/, '--per-io '],
  [/^batch (?=must)/, '--batch '],
  [/^fixedFiles (?=must)/, '--no-fixed-files '],
  [/^requestTimeoutMs (?=must)/, '--timeout in milliseconds '],
]

export function withFlagNames(message: string): string {
  const found = FLAG_OF_OPTION.find(([option]) => option.test(message))
  return found === undefined ? message : message.replace(found[0], found[1])
}

/** One line for tables. */
export function formatTarget(target: TargetSpec): string {
  return 'path' in target ? (target.type === 'module' ? target.path : `${target.type} ${target.path}`) : target.type
}
