/** What the reports of measurements have in common: medians, Markdown tables, and the place in a document where a table goes. */
import { readFileSync, writeFileSync } from 'node:fs'

export function median(values: number[]): number | null {
  if (values.length === 0) return null
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]): string => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

/** Replaces what stands between two markers of a document. */
export function writeBetween(document: string, begin: string, end: string, content: string): void {
  const [before, rest] = readFileSync(document, 'utf8').split(begin)
  const after = rest?.split(end)[1]
  if (before === undefined || after === undefined) throw new Error(`${document} lacks the markers "${begin}" and "${end}"`)
  writeFileSync(document, `${before}${begin}\n\n${content}\n\n${end}${after}`)
}
