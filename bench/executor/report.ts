/**
 * Prints what bench/executor/measure.ts found, as a Markdown table: each measure with its floor, and every contestant in it.
 *
 *   node bench/executor/report.ts [--write DOCUMENT] RESULTS
 *
 * `--write` puts the table between the markers of the document. A figure is the median of its rounds, with the least and the most.
 */
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { median, table, writeBetween } from '../markdown.ts'
import { type Contestant, contestants, type Measure, measures, type Results } from './measures.ts'

const { values: options, positionals } = parseArgs({ options: { write: { type: 'string' } }, allowPositionals: true })
const results = JSON.parse(readFileSync(positionals[0] ?? '/dev/stdin', 'utf8')) as Results
const unit = results.isCounted ? 'instructions' : 'ns'
const takingPart = contestants.filter((contestant) => results.runs.some((run) => run.contestant === contestant))

const text = `${results.environment}\n\n${table([`${unit} per item`, ...takingPart, 'floor', 'holds'], measures.flatMap(row))}`
console.log(text)
if (options.write !== undefined) {
  const kind = results.isCounted ? 'counted' : 'timed'
  writeBetween(
    options.write,
    `<!-- executor, ${kind}: written by bench/executor/run --write-docs -->`,
    `<!-- end of executor, ${kind} -->`,
    text,
  )
}

function row(measure: Measure): string[][] {
  const ours = median(valuesOf(measure, 'ours'))
  if (ours === null) return []
  const limit = limitOf(measure)
  return [
    [
      measure.title,
      ...takingPart.map((contestant) => shown(valuesOf(measure, contestant))),
      limit === null ? '' : `≤ ${limit.shown}`,
      limit === null ? '' : ours <= limit.value ? 'yes' : '**no**',
    ],
  ]
}

/** Nanoseconds are no instructions: where these are counted, only floors beside somebody else hold. */
function limitOf({ floor, ...measure }: Measure): { value: number; shown: string } | null {
  if (floor === undefined) return null
  if ('nanoseconds' in floor) return results.isCounted ? null : { value: floor.nanoseconds, shown: `${floor.nanoseconds}` }
  const theirs = median(valuesOf(measure, floor.of))
  return theirs === null ? null : { value: theirs * floor.times, shown: `${floor.times} × ${floor.of}` }
}

function valuesOf({ name, by }: Measure, contestant: Contestant): number[] {
  return results.runs.filter((run) => run.measure === name && run.contestant === contestant).map((run) => run[by])
}

function shown(values: number[]): string {
  const middle = median(values)
  if (middle === null) return ''
  const digits = middle < 100 ? 1 : 0
  const spread = values.length > 1 ? ` (${Math.min(...values).toFixed(digits)}–${Math.max(...values).toFixed(digits)})` : ''
  return middle.toFixed(digits) + spread
}
