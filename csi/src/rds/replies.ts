/**
 * Rows that a router prints, from JSON or from `print detail`. Pure: text in, rows out; what is not understood is an error and no row.
 *
 * Both forms give the same values: booleans as yes and no, integers as digits alone.
 */
import { withoutLog } from './exchange.ts'
import { UnreadableReply } from './retry.ts'

export type Row = Record<string, string>

/** Rows of `:put [:serialize to=json …]`. A line break is none of JSON's inside a string, so one that is there was put in by the terminal. */
export function rowsOfJson(text: string): Row[] {
  let value: unknown
  try {
    // Numbers as they were written: a double would round sizes, and `1099511627776.000000` is how some versions print an integer.
    value = JSON.parse(withoutLog(text).replaceAll('\n', ''), (_key, plain, context?: { source?: string }) =>
      typeof plain === 'number' ? (context?.source ?? String(plain)).replace(/\.0+$/, '') : plain,
    )
  } catch (cause) {
    throw new UnreadableReply(`not JSON: ${text.slice(0, 120)}`, { cause })
  }
  const rows = Array.isArray(value) ? value : [value]
  return rows.map((row) => {
    if (typeof row !== 'object' || row === null || Array.isArray(row)) throw new UnreadableReply(`not a row: ${JSON.stringify(row)}`)
    return Object.fromEntries(Object.entries(row).map(([key, field]) => [key, fieldText(field)]))
  })
}

function fieldText(field: unknown): string {
  if (typeof field === 'boolean') return field ? 'yes' : 'no'
  return field === null ? '' : typeof field === 'object' ? JSON.stringify(field) : String(field)
}

/** A record begins with its number near the left edge; its further lines are indented more. */
const RECORD = /^ {0,3}(\d+) +(?:([A-Za-z*]{1,8}) +)?(?=;;;|(?:file )?[a-z][a-z0-9-]*=)/
const CONTINUED = /^ {4,}(\S.*)$/
const COMMENT = /^\s*;;;/
const KEY_AHEAD = /^(?:file )?[a-z][a-z0-9-]*=/

/** Rows of `print detail`, at any width of the terminal. */
export function rowsOfDetail(text: string): Row[] {
  const records: string[] = []
  let legend = true
  for (const line of withoutLog(text).split('\n')) {
    const started = RECORD.exec(line)
    if (started) {
      legend = false
      const rest = line.slice(started[0].length).trimEnd()
      records.push(COMMENT.test(rest) ? '' : rest)
    } else if (line.trim() === '' || COMMENT.test(line) || legend) {
      if (legend && line.trim() !== '' && !/^(Flags:|\s|Columns:|;;;)/.test(line)) throw new UnreadableReply(`not a list: ${line}`)
    } else {
      const more = CONTINUED.exec(line)
      if (!more) throw new UnreadableReply(`not part of a record: ${line}`)
      records.push(joined(records.pop()!, more[1]!.trimEnd()))
    }
  }
  return records.map(fields)
}

/** A line ends between two properties, between two groups of digits, or, when a value is long, in the middle of it. */
function joined(record: string, more: string): string {
  const insideQuotes = (record.replace(/\\./g, '').match(/"/g)?.length ?? 0) % 2 === 1
  return !insideQuotes && (record === '' || KEY_AHEAD.test(more)) ? `${record} ${more}` : `${record}${more}`
}

function fields(record: string): Row {
  const row: Row = {}
  const field = /\s*((?:file )?[a-z][a-z0-9-]*)=("(?:[^"\\]|\\.)*"|.*?)(?=\s+(?:file )?[a-z][a-z0-9-]*=|\s*$)/gy
  let end = 0
  for (let found = field.exec(record); found; found = field.exec(record)) {
    row[found[1]!] = found[2]!.startsWith('"') ? unquoted(found[2]!) : bare(found[2]!)
    end = field.lastIndex
  }
  if (record.slice(end).trim() !== '') throw new UnreadableReply(`not a property: ${record.slice(end, end + 80)}`)
  return row
}

const ESCAPES: Record<string, string> = { n: '\n', r: '\r', t: '\t', _: ' ', a: '\x07', b: '\b', f: '\f', v: '\v' }

function unquoted(text: string): string {
  return text
    .slice(1, -1)
    .replace(/\\([0-9A-F]{2}|.)/g, (_all, code: string) =>
      code.length === 2 ? String.fromCharCode(Number.parseInt(code, 16)) : (ESCAPES[code] ?? code),
    )
}

/** Groups of three are how sizes are printed; other text with spaces keeps them. */
function bare(text: string): string {
  if (text.includes('"')) throw new UnreadableReply(`not a value: ${text.slice(0, 80)}`)
  return /^\d{1,3}( ?\d{3})+$/.test(text) ? text.replaceAll(' ', '') : text
}

/** An integer of a row. */
export function integer(row: Row, key: string): bigint {
  const value = integerIfAny(row, key)
  if (value === undefined) throw new UnreadableReply(`${key} is ${JSON.stringify(row[key])} and not a number`)
  return value
}

export const integerIfAny = (row: Row, key: string): bigint | undefined => (/^\d+$/.test(row[key] ?? '') ? BigInt(row[key]!) : undefined)
