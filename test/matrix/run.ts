/**
 * The matrix on real kernels: scripts/node test/matrix/run.ts [--kernel SERIES]… [--target NAME]… [--pairs] [--history OPERATIONS] [--write-docs]
 *
 * Boots each kernel, once per target (of those named, or of all), or once with `--pairs` for a small selection in which every two values
 * meet. Every cell is run, or skipped for a flag that the kernel's GET_FEATURES has not. `--write-docs` puts the outcome into docs/matrix.md.
 */
import { execFileSync } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { exit, stdout } from 'node:process'
import { parseArgs } from 'node:util'
import { printHelp } from '../../scripts/help.ts'
import { documentOf, totals } from './document.ts'
import { boot, ROOT } from './machine.ts'
import { allGroups, type CellResult, groupName, operationsOf, TARGETS } from './table.ts'

const DOCUMENT = path.join(ROOT, 'docs/matrix.md')
/** The newest kernel has every flag: nothing of it may be skipped. */
const COMPLETE_KERNEL = '7.2'

const { values } = parseArgs({
  options: {
    kernel: { type: 'string', multiple: true, default: ['6.12', '6.18', '7.2'] },
    target: { type: 'string', multiple: true, default: Object.keys(TARGETS) },
    pairs: { type: 'boolean', default: false },
    history: { type: 'string', default: '25000' },
    'write-docs': { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) printHelp(import.meta.filename)

/** Runs cells in one machine. Those of which it says nothing have failed. */
async function runCells(kernel: string, target: string | undefined, expected: number): Promise<CellResult[]> {
  const guest = ['node', 'test/matrix/guest.ts', '--history', values.history]
  if (values.pairs) guest.push('--pairs')
  if (target !== undefined) guest.push('--target', target)
  const { results, status } = await boot<CellResult>(kernel, guest)
  const missing = Math.max(expected - results.length, status === 0 ? 0 : 1)
  const [group] = allGroups().filter((group) => target === undefined || group.target === target)
  if (group === undefined) throw new Error(`no cells of ${target}`)
  const lost: CellResult = {
    group,
    operation: 'mixed',
    outcome: 'failed',
    reason: `did not run: the machine ended with ${status}`,
    requests: 0,
  }
  return [...results, ...Array.from({ length: missing }, () => lost)]
}

async function runKernel(kernel: string): Promise<CellResult[]> {
  const started = Date.now()
  const results: CellResult[] = []
  if (values.pairs) results.push(...(await runCells(kernel, undefined, 1)))
  else for (const target of values.target) results.push(...(await runCells(kernel, target, cellsOf(target))))
  for (const result of results) {
    const skippedOfOurs = kernel === COMPLETE_KERNEL && result.outcome === 'skipped'
    if (skippedOfOurs) Object.assign(result, { outcome: 'failed', reason: `skipped for ${result.reason}, which ${kernel} has` })
    if (result.outcome === 'failed') stdout.write(`FAILED ${kernel}; ${groupName(result.group)}; ${result.operation}: ${result.reason}\n`)
  }
  const { passed, failed, skipped, requests, observed } = totals(results)
  const seconds = Math.round((Date.now() - started) / 1000)
  stdout.write(`kernel ${kernel}: ${passed + failed} cells ran, ${passed} passed, ${failed} failed, ${skipped} skipped; `)
  stdout.write(`${requests} requests checked, ${observed} operations in linearizable histories; ${seconds} s\n`)
  for (const [flags, count] of skips(results)) stdout.write(`kernel ${kernel}: ${count} skipped: GET_FEATURES has no ${flags}\n`)
  return results
}

/** Histories are beyond these: they are of one target alone. */
const cellsOf = (target: string): number =>
  allGroups()
    .filter((group) => group.target === target)
    .flatMap((group) => operationsOf(group.target)).length

function skips(results: CellResult[]): Map<string, number> {
  const counts = new Map<string, number>()
  for (const { outcome, reason } of results) if (outcome === 'skipped') counts.set(reason, (counts.get(reason) ?? 0) + 1)
  return counts
}

execFileSync('cargo', ['build', '--quiet', '--release', '-p', 'ublk-check'], { cwd: ROOT, stdio: 'inherit' })
const byKernel = new Map<string, CellResult[]>()
for (const kernel of values.kernel) byKernel.set(kernel, await runKernel(kernel))
if (values['write-docs']) await writeFile(DOCUMENT, documentOf(await readFile(DOCUMENT, 'utf8'), byKernel))
const all = totals([...byKernel.values()].flat())
stdout.write(
  `all kernels: ${all.passed + all.failed} cells ran, ${all.skipped} skipped; ${all.observed} operations in linearizable histories\n`,
)
stdout.write(`${all.passed} passed, ${all.failed} failed\n`)
exit(all.failed === 0 ? 0 : 1)
