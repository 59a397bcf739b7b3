/** Prints rows as aligned columns, and pairs as aligned lines: all the layout this program has. */

/** Columns whose every cell is a number are aligned to the right. */
export function columns(header: string[], rows: string[][]): string {
  const lines = [header, ...rows]
  const widths = header.map((_, column) => Math.max(...lines.map((line) => cell(line, column).length)))
  const numeric = header.map((_, column) => rows.length > 0 && rows.every((row) => /^[\d.]*$|^-$/.test(cell(row, column))))
  const format = (line: string[]): string =>
    widths
      .map((width, column) => (numeric[column] ? cell(line, column).padStart(width) : cell(line, column).padEnd(width)))
      .join('  ')
      .trimEnd()
  return lines.map(format).join('\n')
}

/** `name  value` lines. */
export function pairs(entries: [name: string, value: string][]): string {
  const width = Math.max(...entries.map(([name]) => name.length))
  return entries.map(([name, value]) => `${name.padEnd(width)}  ${value}`.trimEnd()).join('\n')
}

function cell(line: string[], column: number): string {
  return line[column] ?? ''
}
