/**
 * FILE of `ublk serve`: JSON with the devices that are to be there.
 *
 *   { "devices": [
 *     { "name": "disk", "add": ["file", "disk.img", "--size", "10G"], "restart": { "delay": "100ms", "longest": "30s", "tries": 8, "rarely": "5m" } }
 *   ] }
 *
 * `add` has the words of `ublk add`, read by its own parser. An array and not an object by name: JSON drops the first of two equal keys
 * without a word. What is wrong is an error that names file, device and rule.
 */

import { readFileSync, realpathSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import type { Recovery } from 'ublk'
import { type ErrorReport, EXIT, Failure, reportOf } from './failure.ts'
import { baseOf, deviceOptions, type Keeper, type ServeSpec, type TargetSpec, withFlagNames } from './target.ts'
import { parseDurationMs } from './units.ts'

/** When a server is started again. */
export interface RestartLimits {
  /** After the first failure; each further one doubles it. */
  delayMs: number
  longestMs: number
  /** After so many in a row it is tried rarely. */
  tries: number
  rarelyMs: number
}

export interface Entry {
  name: string
  /** With its `keeper`. */
  spec: ServeSpec & { keeper: Keeper }
  restart: RestartLimits
}

/** Reads the words of `ublk add`. */
export type ReadWords = (words: string[]) => Promise<ServeSpec>

export const DEFAULT_RESTART: RestartLimits = { delayMs: 100, longestMs: 30_000, tries: 8, rarelyMs: 300_000 }

/** The one name of a file, however it was given. A link in its place is not followed: it may lead elsewhere tomorrow. */
export function canonical(file: string): string {
  const path = resolve(file)
  try {
    return join(realpathSync(dirname(path)), basename(path))
  } catch {
    return path
  }
}

/** @param file absolute; relative paths in it are relative to its directory */
export async function readServeFile(file: string, readWords: ReadWords): Promise<Entry[]> {
  const devices = devicesOf(file, parseJson(file))
  const entries: Entry[] = []
  for (const [index, device] of devices.entries()) {
    const name = nameOf(device, `${file}: devices[${index}]`)
    const where = `${file}: device ${JSON.stringify(name)}`
    if (entries.some((entry) => entry.name === name)) throw wrong(`${where}: there are two of this name`)
    checkKeys(device, ['name', 'add', 'restart'], where)
    const { add } = device
    if (!Array.isArray(add) || !add.every((word) => typeof word === 'string')) throw wrong(`${where}: "add" must be an array of strings`)
    const spec = await named(where, () => specOf(readWords, add, dirname(file)))
    const entry = { name, spec: { ...spec, keeper: { file, name, add } }, restart: restartOf(device.restart, where) }
    checkAlone(entry, entries, where)
    entries.push(entry)
  }
  return entries
}

type Fields = Record<string, unknown>

function parseJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException
    throw wrong(code === undefined ? `${file} is not JSON: ${message.replaceAll(/\s+/g, ' ')}` : message)
  }
}

function devicesOf(file: string, value: unknown): Fields[] {
  if (!isFields(value)) throw wrong(`${file} must be an object`)
  checkKeys(value, ['devices'], file)
  const { devices } = value
  if (!Array.isArray(devices) || !devices.every(isFields)) throw wrong(`${file}: "devices" must be an array of objects`)
  return devices
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function checkKeys(fields: Fields, known: string[], where: string): void {
  const stranger = Object.keys(fields).find((key) => !known.includes(key))
  if (stranger !== undefined) throw wrong(`${where}: there is no ${JSON.stringify(stranger)}, only ${known.join(', ')}`)
}

function nameOf({ name }: Fields, where: string): string {
  if (typeof name === 'string' && /^[\w.-]{1,64}$/.test(name)) return name
  throw wrong(`${where}: "name" must be 1 to 64 letters, digits, dots, hyphens and underscores, got ${JSON.stringify(name)}`)
}

/** The device that the words ask for, checked as far as is possible without a kernel, and kept up where that is possible. */
async function specOf(readWords: ReadWords, words: string[], directory: string): Promise<ServeSpec> {
  process.chdir(directory)
  const { target, device } = await readWords(words).finally(() => process.chdir('/'))
  const base = baseOf(target)
  // Said at every start of the machine, it would answer the question which leg has the newest data without asking anybody.
  if (base.type === 'mirror' && base.create) {
    throw wrong(
      '--create would make a leg anew whenever its disk is missing, and the data of an older leg the truth',
      'Make the mirror once with `ublk add mirror … --create` and `ublk del`; then keep it up without --create.',
    )
  }
  const { recovery = bestRecovery({ target, device }) } = device
  const spec: ServeSpec = { target, device: { ...device, recovery } }
  await checkOptions(spec)
  return spec
}

/** The rules of the library, without a device: it looks at the signal after it has checked the options, and before it asks the driver. */
async function checkOptions(spec: ServeSpec): Promise<void> {
  const { Device } = await import('ublk')
  const stop = new AbortController()
  // A module is not to be loaded.
  if (spec.target.type === 'module') stop.abort()
  const refused = Device.create({ ...(await deviceOptions(spec)), signal: stop.signal })
  stop.abort()
  await refused.catch((error: Error) => {
    if (error.name !== 'AbortError') throw error
  })
}

/** The one that costs the users of the device least. */
function bestRecovery({ target, device }: ServeSpec): Recovery {
  const base = baseOf(target)
  if (device.unprivileged === true) return 'off'
  if (base.type === 'zoned') return base.path === undefined ? 'off' : 'requeue'
  return 'reissue'
}

/** Passes an error on as one of FILE. */
async function named<T>(where: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read()
  } catch (error) {
    const { message, hint } = reportOf(error)
    throw wrong(`${where}: ${withFlagNames(message)}`, hint)
  }
}

function restartOf(value: unknown, where: string): RestartLimits {
  if (value === undefined) return DEFAULT_RESTART
  if (!isFields(value)) throw wrong(`${where}: "restart" must be an object`)
  checkKeys(value, ['delay', 'longest', 'tries', 'rarely'], `${where}: restart`)
  const { tries = DEFAULT_RESTART.tries } = value
  if (!Number.isInteger(tries) || Number(tries) < 1) {
    throw wrong(`${where}: restart.tries must be a whole number from 1 on, got ${JSON.stringify(tries)}`)
  }
  const time = (key: 'delay' | 'longest' | 'rarely'): number =>
    value[key] === undefined ? DEFAULT_RESTART[`${key}Ms`] : pauseOf(value[key], `restart.${key}`, where)
  return { delayMs: time('delay'), longestMs: time('longest'), tries: Number(tries), rarelyMs: time('rarely') }
}

function pauseOf(text: unknown, key: string, where: string): number {
  if (typeof text !== 'string') throw wrong(`${where}: ${key} must be a duration such as "500ms", got ${JSON.stringify(text)}`)
  try {
    return parseDurationMs(text, key)
  } catch (error) {
    throw wrong(`${where}: ${(error as Error).message}`, reportOf(error).hint)
  }
}

/** Two devices of one number cannot be; two over one file that they write would destroy it. */
function checkAlone(entry: Entry, others: Entry[], where: string): void {
  for (const other of others) {
    const { id, readOnly } = entry.spec.device
    if (id !== undefined && other.spec.device.id === id) throw wrong(`${where}: --id ${id} is that of ${JSON.stringify(other.name)}`)
    const theirs = pathsOf(other.spec.target)
    const shared = pathsOf(entry.spec.target).find((path) => theirs.includes(path))
    if (shared !== undefined && !(readOnly && other.spec.device.readOnly)) {
      throw wrong(
        `${where}: ${shared} is also that of ${JSON.stringify(other.name)}`,
        'Two devices may share a file if both are --read-only.',
      )
    }
  }
}

function pathsOf(target: TargetSpec): string[] {
  const base = baseOf(target)
  if ('paths' in base) return base.paths
  return 'path' in base && base.type !== 'module' && base.path !== undefined ? [base.path] : []
}

function wrong(message: string, hint: ErrorReport['hint'] = null): Failure {
  return new Failure({ code: 'ERR_UBLK_USAGE', message, hint: hint ?? 'See `ublk serve --help` for an example.', exitCode: EXIT.usage })
}
