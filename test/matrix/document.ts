/**
 * The matrix's outcome as tables for docs/matrix.md, between its markers.
 */
import { BLOCK_SIZES, type CellResult, LAYOUTS, MODES, OPERATIONS, TARGETS } from './table.ts'

const BEGIN = '<!-- begin: written by make vm-matrix -->'
const END = '<!-- end -->'

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
  const observed = (results: CellResult[]): number =>
    results.filter(({ operation }) => operation === 'history').reduce((total, { requests }) => total + requests, 0)
  const histories = kernels.map((kernel) => observed(byKernel.get(kernel) ?? []))
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
  const count = (outcome: CellResult['outcome']): number => results.filter((result) => result.outcome === outcome).length
  const parts = [`${count('passed')} passed`]
  if (count('failed') > 0) parts.push(`${count('failed')} failed`)
  if (count('skipped') > 0) parts.push(`${count('skipped')} skipped`)
  return parts.join(', ')
}
