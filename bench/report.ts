/**
 * Prints what bench/measure.ts found, as Markdown tables: each figure with its floor, then every contestant in every job.
 *
 *   node bench/report.ts [--modes] [--write DOCUMENT] RESULTS
 *
 * `--modes` takes the figures of every way of the driver. `--write` puts the tables between the markers of the document. A figure is the median of its rounds.
 */
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { type ComparedFigure, type Figure, figures, isStart, type Measure, type Side, type SingleFigure } from './figures.ts'
import type { Job } from './fio.ts'
import { median, table, writeBetween } from './markdown.ts'
import { modesReport } from './modes-report.ts'
import { show, valuesOf as valuesIn } from './readings.ts'
import type { Results } from './results.ts'

/** A ratio this close to its floor is on it: rounds of one boot differ by as much. */
const NOISE = 0.01
const FLOOR_HEAD = ['figure', 'ours', 'peer', 'ours / peer', 'floor', 'holds']

const { values: options, positionals } = parseArgs({
  options: { modes: { type: 'boolean', default: false }, write: { type: 'string' } },
  allowPositionals: true,
})
const results = JSON.parse(readFileSync(positionals[0] ?? '/dev/stdin', 'utf8')) as Results

const valuesOf = (side: Side, measure: Measure): number[] => valuesIn(results, side, measure)
const tables = options.modes ? modesReport(results) : [table(FLOOR_HEAD, figures.flatMap(row)), sideBySide()]
const text = [environment(), ...tables].join('\n\n')
console.log(text)
if (options.write !== undefined) {
  const what = options.modes ? 'modes' : 'figures'
  const option = options.modes ? ' --modes' : ''
  writeBetween(options.write, `<!-- ${what}: written by bench/run${option} --write-docs -->`, `<!-- end of ${what} -->`, text)
}

function row(figure: Figure): string[][] {
  return figure.kind === 'compared' ? comparedRow(figure) : singleRow(figure)
}

function comparedRow({ title, measure, ours, peer, floor }: ComparedFigure): string[][] {
  const our = median(valuesOf(ours, measure))
  const their = median(valuesOf(peer, measure))
  if (our === null) return []
  const name = ours.contestant === peer.contestant ? '' : ` (${peer.contestant})`
  if (their === null && results.missing[peer.contestant] === undefined) return []
  if (their === null) return [[title, show(our, measure), `not available${name}`, '', '', '']]
  const sides = [title, show(our, measure), show(their, measure) + name]
  if ('atMostMore' in floor) {
    const more = our - their
    return [
      [...sides, `${more >= 0 ? '+' : ''}${more.toFixed(1)} µs`, `≤ +${floor.atMostMore} µs`, more <= floor.atMostMore ? 'yes' : 'no'],
    ]
  }
  const ratio = our / their
  const shown = ratio.toFixed(3)
  if ('none' in floor) return [[...sides, shown, '', '']]
  if ('atLeastTimes' in floor) return [[...sides, shown, `≥ ${floor.atLeastTimes.toFixed(2)}`, verdict(ratio / floor.atLeastTimes)]]
  return [[...sides, shown, `≤ ${floor.atMostTimes.toFixed(2)}`, verdict(floor.atMostTimes / ratio)]]
}

/** `score` is 1 on the floor, more above it. */
function verdict(score: number): string {
  if (score >= 1) return 'yes'
  const short = `${((1 - score) * 100).toFixed(1)} % short`
  return 1 - score <= NOISE ? `within the noise (${short})` : `**no**, ${short}`
}

function singleRow(figure: SingleFigure): string[][] {
  const value = singleValue(figure)
  if (value === null) return []
  const shown = `${figure.value === 'createToLive' ? value.toFixed(2) : value.toFixed(1)} ${figure.unit}`.trim()
  if (figure.atMost === null) return [[figure.title, shown, '', '', '', '']]
  return [[figure.title, shown, '', '', `≤ ${figure.atMost} ${figure.unit}`.trim(), value <= figure.atMost ? 'yes' : '**no**']]
}

function singleValue({ value }: SingleFigure): number | null {
  if (value === 'createToLive') return median(results.createToLive)
  if (isStart(value)) return median(results.starts?.[value] ?? [])
  if (results.idle.length === 0) return null
  if (value === 'idleWakeUps') return Math.max(...results.idle.map(({ wakeUpsPerSecond }) => wakeUpsPerSecond))
  const servers = results.idle.filter(({ contestant }) => contestant.startsWith('JS'))
  return Math.max(...servers.map(({ residentBytes }) => residentBytes)) / 1e6
}

function sideBySide(): string {
  const names = [...new Set(results.runs.map(({ contestant }) => contestant))]
  const columns: Array<[head: string, job: Job, measure: Measure]> = [
    ['4K read QD64', 'read-4k-qd64', 'rate'],
    ['4K write QD64', 'write-4k-qd64', 'rate'],
    ['4K read QD1', 'read-4k-qd1', 'microsecondsPerRequest'],
    ['server CPU, QD64', 'read-4k-qd64', 'serverNanosecondsPerRequest'],
    ['server CPU, QD1', 'read-4k-qd1', 'serverNanosecondsPerRequest'],
    ['128K read QD16', 'read-128k-qd16', 'bytesPerSecond'],
    ['128K write QD16', 'write-128k-qd16', 'bytesPerSecond'],
  ]
  const rows = names.map((contestant) => [
    contestant,
    ...columns.map(([, job, measure]) => {
      const value = median(valuesOf({ contestant, job }, measure))
      return value === null ? '' : show(value, measure)
    }),
    enters(contestant),
  ])
  const missing = Object.entries(results.missing).map(([name, why]) => `Not available: ${name}: ${why}.`)
  return [table(['contestant', ...columns.map(([head]) => head), 'enters per request, QD64'], rows), ...missing].join('\n\n')
}

function enters(contestant: string): string {
  const runs = results.runs.filter((run) => run.contestant === contestant && run.job === 'read-4k-qd64')
  const value = median(runs.flatMap(({ entersPerRequest }) => entersPerRequest ?? []))
  return value === null ? '' : value.toFixed(3)
}

function environment(): string {
  const { kernel, node, fio, seconds, rounds, size } = results.environment
  return `Linux ${kernel}, Node.js ${node}, ${fio}; devices of ${size}, ${seconds} counted seconds a job, median of ${rounds} rounds.`
}
