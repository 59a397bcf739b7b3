/**
 * RouterOS commands as text. The text is a script to the router, with separators, variables and command substitution, so there is one
 * builder: each value is allowed by the pattern of its property first, and quoted then. Either barrier alone keeps it one command.
 */
import { invalidArgument } from '../errors.ts'

/** Everything the driver says to a router goes through here, or is a literal in this folder. */
export type Script = string & { readonly script: unique symbol }

/** What a value may be. `mount-filesystem` has one value only: a router that mounts what a node has mounted destroys it. */
const PATTERNS = {
  type: /^file$/,
  slot: /^[a-z0-9][a-z0-9-]{0,62}$/,
  src: /^[a-z0-9][a-z0-9-]{0,62}$/,
  dst: /^[a-z0-9][a-z0-9-]{0,62}$/,
  'file-path': /^(?=.{2,255}$)(\/[A-Za-z0-9](?:\.?[A-Za-z0-9_-])*)+$/,
  'file-size': /^[1-9][0-9]{0,18}$/,
  'mount-filesystem': /^no$/,
  'mount-point': /^[A-Za-z0-9](?:\.?[A-Za-z0-9_-]){0,62}$/,
  'nvme-tcp-export': /^(yes|no)$/,
  'nvme-tcp-server-port': /^[1-9][0-9]{0,4}$/,
  'nvme-tcp-server-nqn': /^(?=.{12,223}$)nqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.-]+:[A-Za-z0-9._:-]+$/,
  'nvme-tcp-server-allow-host-name': /^(?=.{12,223}$)nqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.-]+:[A-Za-z0-9._:-]+$/,
  // Of a file: the path without the slash in front.
  name: /^(?=.{1,254}$)[A-Za-z0-9](?:\.?[A-Za-z0-9_-])*(\/[A-Za-z0-9](?:\.?[A-Za-z0-9_-])*)*$/,
} as const satisfies Record<string, RegExp>

/** Properties that the driver writes or looks for. */
export type Property = keyof typeof PATTERNS
export type Values = Partial<Record<Property, string | bigint | number>>

/** @throws {CsiError} INVALID_ARGUMENT: no command is made of such a value */
export function allowed(property: Property, value: string | bigint | number): string {
  const text = String(value)
  if (!PATTERNS[property]!.test(text)) {
    throw invalidArgument(
      `${JSON.stringify(text.slice(0, 80))} cannot be a RouterOS ${property}; it must match ${PATTERNS[property]!.source}`,
    )
  }
  return text
}

/** A string literal of the router's language. Only printable ASCII is let through: nothing that the driver sends needs more. */
export function quote(text: string): string {
  if (/[^ -~]/.test(text)) throw invalidArgument(`${JSON.stringify(text.slice(0, 80))} holds a character that is not printable ASCII`)
  return `"${text.replace(/[\\"$]/g, '\\$&')}"`
}

/** `key="value"`, in the order given. Exported for the tests of the quoting alone; callers use the commands below. */
export function pairs(values: [string, string][], separator = ' '): string {
  return values.map(([property, value]) => `${property}=${quote(value)}`).join(separator)
}

function checked(values: Values, separator?: string): string {
  const entries = Object.entries(values) as [Property, string | bigint | number][]
  return pairs(
    entries.map(([property, value]) => [property, allowed(property, value)]),
    separator,
  )
}

const where = (values: Values): string => `where ${checked(values, ' and ')}`

/** `/disk` or `/file` with one of the few commands that the driver needs. */
export const addDisk = (values: Values): Script => `/disk add ${checked(values)}` as Script
export const setDisk = (slot: string, values: Values): Script => `/disk set [find ${where({ slot })}] ${checked(values)}` as Script
export const removeDisk = (slot: string): Script => `/disk remove [find ${where({ slot })}]` as Script
/** Copies data between two file disks; the second must be as large. (`add copy-from` copies settings only.) */
export const copyDisk = (src: string, dst: string): Script => `/disk copy ${checked({ src, dst })}` as Script
export const removeFile = (name: string): Script => `/file remove [find ${where({ name })}]` as Script

export type Menu = '/disk' | '/file'

/** Only what is looked at is asked for: a disk has secrets too, and of a small file the router would send the contents. */
const COLUMNS: Record<Menu, string> = {
  '/disk':
    'type,slot,size,free,mount-point,mount-filesystem,nvme-tcp-export,nvme-tcp-server-port,nvme-tcp-server-nqn,nvme-tcp-server-allow-host-name,file-path',
  '/file': 'name',
}

/** Rows as JSON, where the router has `:serialize`. No values: all rows. */
export function readJson(menu: Menu, values: Values): Script {
  const rows = `${menu} print detail as-value proplist=${COLUMNS[menu]} ${filter(values)}`.trim()
  return `:put [:serialize to=json options=json.no-string-conversion value=[${rows}]]` as Script
}

/** Rows as text for people, on any router. */
export const readDetail = (menu: Menu, values: Values): Script =>
  `${menu} print detail proplist=${COLUMNS[menu]} ${filter(values)}`.trim() as Script

const filter = (values: Values): string => (Object.keys(values).length === 0 ? '' : where(values))

/** `7.24.1 (stable)`. Works on every RouterOS 7, so it is asked first and bare. */
export const READ_VERSION = ':put [/system resource get version]' as Script

/** Names of what a command takes, as the console itself knows them: tells what this version, with its packages, can do. */
export const readArguments = (command: 'disk,add' | 'disk,copy'): Script =>
  `:put [:serialize to=json value=[/console inspect as-value request=child path=${command}]]` as Script
