/**
 * What a person sees of the demo: headings, steps with their outcome and time, a table. Plain text where output is no terminal.
 */
import { styleText } from 'node:util'

type Style = Parameters<typeof styleText>[0]

const paint = (style: Style, text: string): string => styleText(style, text)
const NAME_WIDTH = 12
const DETAIL_WIDTH = 72

export const say = (text = ''): void => void process.stdout.write(`${text}\n`)
export const heading = (text: string): void => say(`\n${paint('bold', text)}`)
export const note = (text: string): void => say(paint('dim', text))

/** Runs one step and shows how it went; `work` gives what is worth telling. */
export async function step(name: string, work: () => Promise<string>): Promise<void> {
  const startedMs = performance.now()
  if (process.stdout.isTTY) process.stdout.write(`  … ${name}`)
  try {
    const detail = await work()
    result(paint('green', '✓'), name, detail, startedMs)
  } catch (error) {
    result(paint('red', '✗'), name, 'failed', startedMs)
    throw error
  }
}

function result(mark: string, name: string, detail: string, startedMs: number): void {
  if (process.stdout.isTTY) process.stdout.write('\r\u001B[K')
  const time = formatMs(performance.now() - startedMs)
  say(`  ${mark} ${name.padEnd(NAME_WIDTH)}${detail.padEnd(DETAIL_WIDTH)}${paint('dim', time.padStart(8))}`)
}

/** An error as people read it: the message, and what to do next. */
export function failure(error: unknown): void {
  const { message, hint } = error as { message?: string; hint?: string }
  const lines = `${message ?? error}${hint ? `\n${hint}` : ''}`.split('\n')
  for (const line of lines) say(paint('red', `    ${line}`))
}

/** Columns: the first to the left, the others to the right. */
export function table(header: string[], rows: string[][]): void {
  const widths = header.map((title, column) => Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)))
  const line = (row: string[]): string =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0))).join('  ')
  say(`\n${paint('bold', line(header))}`)
  for (const row of rows) say(line(row))
}

export function formatMs(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`
}
