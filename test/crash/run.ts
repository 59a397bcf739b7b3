/**
 * The crash matrix on real kernels: scripts/node test/crash/run.ts [--kernel SERIES]… [--some] [--only TEXT]
 *
 * Boots each kernel and runs every cell, or with `--some` one for each way to end and each policy, with `--only` those whose name has the text. A cell is skipped only for a flag that
 * the kernel's GET_FEATURES has not.
 */
import { execFileSync } from 'node:child_process'
import { exit, stdout } from 'node:process'
import { parseArgs } from 'node:util'
import { printHelp } from '../../scripts/help.ts'
import { boot, ROOT } from '../matrix/machine.ts'
import { allCells, type CellResult, cellName, someCells } from './table.ts'

const SERVER = 'target/debug/examples/crash_server'

const { values } = parseArgs({
  options: {
    kernel: { type: 'string', multiple: true, default: ['6.12', '6.18', '7.2'] },
    some: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) printHelp(import.meta.filename)
const expected = (values.some ? someCells() : allCells()).filter((cell) => cellName(cell).includes(values.only)).length
let [passed, failed, skipped] = [0, 0, 0]

async function runKernel(kernel: string): Promise<void> {
  const started = Date.now()
  const guest = ['node', 'test/crash/guest.ts', ...(values.some ? ['--some'] : []), '--only', values.only]
  const { results, status } = await boot<CellResult>(kernel, guest, [SERVER])
  const count = (outcome: CellResult['outcome']): number => results.filter((result) => result.outcome === outcome).length
  const lost = Math.max(expected - results.length, status === 0 ? 0 : 1)
  for (const { cell, outcome, reason } of results) {
    if (outcome === 'failed') stdout.write(`FAILED ${kernel}; ${cellName(cell)}: ${reason}\n`)
  }
  if (lost > 0) stdout.write(`FAILED ${kernel}: ${lost} cells did not run: the machine ended with ${status}\n`)
  const counts = { passed: count('passed'), failed: count('failed') + lost, skipped: count('skipped') }
  stdout.write(`kernel ${kernel}: ${counts.passed + counts.failed} cells ran, ${counts.passed} passed, ${counts.failed} failed, `)
  stdout.write(`${counts.skipped} skipped for flags that GET_FEATURES has not; ${Math.round((Date.now() - started) / 1000)} s\n`)
  passed += counts.passed
  failed += counts.failed
  skipped += counts.skipped
}

const build = (...args: string[]): unknown => execFileSync('cargo', ['build', '--quiet', ...args], { cwd: ROOT, stdio: 'inherit' })
build('--release', '-p', 'ublk-check')
build('-p', 'ublk', '--example', 'crash_server')
for (const kernel of values.kernel) await runKernel(kernel)
stdout.write(`all kernels: ${passed + failed} cells ran, ${skipped} skipped\n`)
stdout.write(`${passed} passed, ${failed} failed\n`)
exit(failed === 0 ? 0 : 1)
