/**
 * Takes our code for each flag, command, operation and parameter of the driver away, one at a time, and sees the test that is named for it fail.
 *
 *   scripts/node scripts/removals.ts [--only NAME]… [--write-docs]
 *
 * Every test must pass on the sources as they are; then those of which a piece was removed (scripts/removals-table.ts) run on the real kernel,
 * each with a limit of time. Exit status 1 when a removal survives that is not expected to, or proves nothing: its edit does not compile, its
 * test fails anyway, or the machine died. The output of each test is in target/removals/logs; `--write-docs` writes docs/removals.md.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { exit, stdout } from 'node:process'
import { parseArgs } from 'node:util'
import { boot } from '../test/matrix/machine.ts'
import { printHelp } from './help.ts'
import { build, copySources, DIRECTORY, programOf, type TestProgram } from './removals-build.ts'
import { failureIn } from './removals-failure.ts'
import type { GuestJob, GuestResult } from './removals-guest.ts'
import { type Outcome, writeDocument } from './removals-report.ts'
import { type Row, removals } from './removals-table.ts'

const NEWEST = '7.2'
const LOGS = path.join(DIRECTORY, 'logs')
/** Tests in one boot, whose programs are packed together. */
const JOBS_PER_BOOT = 8
/** For a test that passes. */
const LIMIT_S = 300
/** What one that hangs gets beyond three times of that; START_DEV alone gives up after a minute. */
const SLACK_S = 80
/** A machine may die by the emulator alone: docs/investigations/emulated-int3. */
const MOST_BOOTS_LOST = 2

interface Job {
  key: string
  kernel: string
  program: TestProgram
  built: string
  limitSeconds: number
}

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true, default: [] },
    'write-docs': { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) printHelp(import.meta.filename)
const rows = Object.entries(removals).flatMap(([table, rows]) => rows.map((row) => ({ table, row })))
const chosen = rows.filter(({ row: { name } }) => values.only.length === 0 || values.only.includes(name))
if (chosen.length === 0) throw new Error(`no row is called ${values.only.join(' or ')}`)
const keyOf = (table: string, { name }: Row): string => `${table}-${name}`.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-')
const kernelOf = ({ kernel }: Row): string => kernel ?? NEWEST

/** The results of tests, by key. */
async function runJobs(jobs: Job[]): Promise<Map<string, GuestResult>> {
  const results = new Map<string, GuestResult>()
  for (const job of jobs.filter(({ program }) => program.isOfHost)) results.set(job.key, runHere(job))
  for (const kernel of new Set(jobs.map(({ kernel }) => kernel))) {
    const ofKernel = jobs.filter((job) => job.kernel === kernel && !job.program.isOfHost)
    for (const result of await runOn(kernel, ofKernel)) results.set(result.key, result)
  }
  for (const { key, output } of results.values()) writeFileSync(path.join(LOGS, `${key}.log`), output)
  return results
}

function runHere({ key, program, built, limitSeconds }: Job): GuestResult {
  const began = performance.now()
  const { status, output } = spawnSync(built, [program.title], { encoding: 'utf8', timeout: limitSeconds * 1000, killSignal: 'SIGKILL' })
  return { key, status, seconds: Math.round((performance.now() - began) / 1000), output: output.filter(Boolean).join('') }
}

/** In as many machines as it takes: one ends early when a test leaves it unclean. A test whose machine died each time has no result. */
async function runOn(kernel: string, jobs: Job[]): Promise<GuestResult[]> {
  const results: GuestResult[] = []
  const lost = new Map<Job, number>()
  const left = [...jobs]
  while (left.length > 0) {
    const batch = left.slice(0, JOBS_PER_BOOT)
    const orders = batch.map(orderOf)
    const files = [...new Set(batch.map(({ built }) => built))]
    const answer = await boot<GuestResult>(kernel, ['node', 'scripts/removals-guest.ts', JSON.stringify(orders)], files)
    results.push(...answer.results)
    for (const { key, status, seconds } of answer.results) stdout.write(`ran ${key}: ${status ?? 'no end'}, ${seconds} s\n`)
    left.splice(0, answer.results.length)
    const [next] = left
    const hasEndedWell = answer.status === 0 && answer.results.length > 0
    if (hasEndedWell || next === undefined) continue
    lost.set(next, (lost.get(next) ?? 0) + 1)
    if (lost.get(next) === MOST_BOOTS_LOST) left.shift()
  }
  return results
}

function orderOf({ key, program: { isAddon, file, title }, built, limitSeconds }: Job): GuestJob {
  const isWholeName = file.includes('/tests/')
  const rust = [built, '--ignored', '--nocapture', '--test-threads=1', ...(isWholeName ? ['--exact'] : []), title]
  const ava = ['node_modules/.bin/ava', '--tap', '--timeout=10m', '--match', `*${title}*`, file]
  return { key, limitSeconds, command: isAddon ? ava : rust, addon: isAddon ? built : null }
}

/** Each test once, on the sources as they are. */
async function runUnedited(): Promise<Map<string, GuestResult>> {
  const jobs = new Map<string, Job>()
  for (const { row } of chosen) {
    const [program, kernel, key] = [programOf(row.test), kernelOf(row), uneditedKey(row)]
    if (jobs.has(key)) continue
    jobs.set(key, { key, kernel, program, built: build(program, 'unedited'), limitSeconds: LIMIT_S })
  }
  stdout.write(`${jobs.size} tests of the sources as they are\n`)
  return runJobs([...jobs.values()])
}

const uneditedKey = (row: Row): string => `unedited-${kernelOf(row)}-${row.test.replaceAll(/[^A-Za-z0-9]+/g, '-')}`

/** It ended well, and was there: a name that fits no test fails nothing. */
const hasPassed = (result: GuestResult | undefined): boolean =>
  result?.status === 0 && /test result: ok\. [1-9]|^# pass [1-9]/m.test(result.output)

copySources()
mkdirSync(LOGS, { recursive: true })
const unedited = await runUnedited()
const jobs: Job[] = []
const outcomes = new Map<Row, Outcome>()
for (const { table, row } of chosen) {
  const before = unedited.get(uneditedKey(row))
  if (!hasPassed(before)) {
    outcomes.set(row, { kind: 'void', told: `the test fails anyway: ${failureIn(before)}` })
    continue
  }
  const [program, key] = [programOf(row.test), keyOf(table, row)]
  try {
    const built = build(program, key, row)
    stdout.write(`built ${key}\n`)
    jobs.push({ key, kernel: kernelOf(row), program, built, limitSeconds: SLACK_S + 3 * (before?.seconds ?? 0) })
  } catch (error) {
    outcomes.set(row, { kind: 'void', told: `the edit does not compile: ${String(error).slice(0, 600)}` })
  }
}
stdout.write(`${jobs.length} tests of sources with something removed\n`)
const edited = await runJobs(jobs)
for (const { table, row } of chosen.filter(({ row }) => !outcomes.has(row))) {
  const result = edited.get(keyOf(table, row))
  if (result === undefined) outcomes.set(row, { kind: 'void', told: `its machine died ${MOST_BOOTS_LOST} times` })
  else if (hasPassed(result)) outcomes.set(row, { kind: 'survived', told: row.survives ?? 'the test passes' })
  else outcomes.set(row, { kind: 'noticed', told: failureIn(result) })
}

let bad = 0
for (const { table, row } of chosen) {
  const { kind, told } = outcomes.get(row) as Outcome
  const isBad = kind === 'void' || (kind === 'survived') !== (row.survives !== undefined)
  bad += isBad ? 1 : 0
  const verdict = kind === 'survived' && !isBad ? 'survived, as expected' : kind === 'noticed' && !isBad ? 'noticed' : kind.toUpperCase()
  stdout.write(`${table}, ${row.name}: ${verdict}: ${told}\n`)
}
if (values['write-docs'] && bad === 0 && values.only.length === 0) writeDocument(NEWEST, outcomes)
const count = (kind: Outcome['kind']): number => [...outcomes.values()].filter((outcome) => outcome.kind === kind).length
stdout.write(`${outcomes.size} removals: ${count('noticed')} noticed, ${count('survived')} survived, ${count('void')} void\n`)
stdout.write(`${outcomes.size - bad} passed, ${bad} failed\n`)
exit(bad === 0 ? 0 : 1)
