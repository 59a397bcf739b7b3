/** `print detail` as a router's console writes it: legend of flags, numbered records, lines that wrap at the width of the terminal. */

export interface Printed {
  flags: string
  comment?: string
  /** Text is quoted by whoever makes the record, as on a router only some properties are. */
  fields: [key: string, value: string][]
}

const LEGEND: Record<string, string> = { B: 'BLOCK-DEVICE', M: 'MOUNTED', t: 'NVME-TCP-EXPORT' }

export function printDetail(records: Printed[], width: number, flags: string): string {
  const lines: string[] = []
  if (flags !== '')
    lines.push(
      ...wrap(
        'Flags: ',
        [...flags].map((flag, at) => `${flag} - ${LEGEND[flag]}${at + 1 < flags.length ? ';' : ''}`),
        width,
        7,
      ),
    )
  records.forEach(({ flags: own, comment, fields }, number) => {
    const head = `${String(number).padStart(2)} ${flags === '' ? '  ' : own.padEnd(2)} `
    const words = fields.map(([key, value]) => `${key}=${value}`).flatMap((field) => field.split(' '))
    if (comment !== undefined) lines.push(`${head};;; ${comment}`)
    lines.push(...wrap(comment === undefined ? head : ' '.repeat(head.length), words, width, head.length))
  })
  return lines.map((line) => `${line}\r\n`).join('')
}

/** A word that is longer than a line is split where the line ends. */
function wrap(head: string, words: string[], width: number, indent: number): string[] {
  const lines: string[] = []
  let line = head
  let empty = true
  for (let word of words) {
    if (!empty && line.length + 1 + word.length > width) {
      lines.push(line)
      line = ' '.repeat(indent)
      empty = true
    }
    while (line.length + (empty ? 0 : 1) + word.length > width) {
      const room = width - line.length
      lines.push(line + word.slice(0, room))
      word = word.slice(room)
      line = ' '.repeat(indent)
      empty = true
    }
    line += (empty ? '' : ' ') + word
    empty = false
  }
  return [...lines, line]
}

/** `1 099 511 627 776`. */
export const grouped = (bytes: number): string => String(bytes).replace(/\B(?=(\d{3})+$)/g, ' ')

/** `50.0GiB`: rounded to a tenth, so that nobody can take a size from it. */
export function rounded(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = bytes
  let unit = 0
  while (value > 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return unit === 0 ? `${value}B` : `${value.toFixed(1)}${units[unit]}`
}
