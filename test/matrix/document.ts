/**
 * The matrix's outcome: totals, and tables for docs/matrix.md, between its markers.
 */
import { BLOCK_SIZES, type CellResult, LAYOUTS, MODES, OPERATIONS, TARGETS } from './table.ts'

const BEGIN = '<!-- begin: written by make vm-matrix -->'
const END = '<!-- end -->'

export interface Totals {
  passed: number
  failed: number
  skipped: number
  /** Checked requests of all but histories. */
  requests: number
  /** Operations in histories. */
  observed: number
}

export function totals(results: CellResult[]): Totals {
  const count = (outcome: CellResult['outcome']): number => results.filter((result) => result.outcome === outcome).length
  const sum = (isHistory: boolean): number =>
    results.filter(({ operation }) => (operation === 'history') === isHistory).reduce((total, { requests }) => total + requests, 0)
  return { passed: count('passed'), failed: count('failed'), skipped: count('skipped'), requests: sum(false), observed: sum(true) }
}

/** The document with new tables. */
export function documentOf(old: string, byKernel: Map<string, CellResult[]>): string {
  const [before, rest] = old.split(BEGIN)
  const after = rest?.split(END)[1]
  if (before === undefined || after === undefined) throw new Error(`docs/matrix.md has no lines "${BEGIN}" and "${END}"`)
  return `${before}${BEGIN}\n\n${tables(byKernel)}\n${END}${after}`
}

function tables(byKernel: Map<string, CellResult[]>): string {
  const kernels = [...byKernel.keys()]
  const row = (name: string, has: (result: CellResult) => boolean): string =>
    `| ${name} | ${kernels.map((kernel) => cell((byKernel.get(kernel) ?? []).filter(has))).join(' | ')} |`
  const table = (title: string, names: string[], has: (result: CellResult, name: string) => boolean): string =>
    [
      `| ${title} | ${kernels.join(' | ')} |`,
      `| --- |${' --- |'.repeat(kernels.length)}`,
      ...names.map((name) => row(name, (result) => has(result, name))),
      '',
    ].join('\n')
  const histories = kernels.map((kernel) => totals(byKernel.get(kernel) ?? []).observed)
  return [
    table('buffer mode', Object.keys(MODES), ({ group }, name) => group.mode === name),
    table('threads and commands', Object.keys(LAYOUTS), ({ group }, name) => group.layout === name),
    table('target', Object.keys(TARGETS), ({ group }, name) => group.target === name),
    table('logical block', BLOCK_SIZES.map(String), ({ group }, name) => String(group.blockSize) === name),
    table('requests', [...OPERATIONS, 'history'], ({ operation }, name) => operation === name),
    [`| all | ${kernels.join(' | ')} |`, `| --- |${' --- |'.repeat(kernels.length)}`, row('cells', () => true)].join('\n'),
    `| operations in linearizable histories | ${histories.join(' | ')} |\n`,
  ].join('\n')
}

function cell(results: CellResult[]): string {
  const { passed, failed, skipped } = totals(results)
  const parts = [`${passed} passed`]
  if (failed > 0) parts.push(`${failed} failed`)
  if (skipped > 0) parts.push(`${skipped} skipped`)
  return parts.join(', ')
}
