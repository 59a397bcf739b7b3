/**
 * Runs the suites of scripts/suites.ts one after the other and goes on after a failure. Each suite's output goes to
 * target/test-logs; here it gets one line. The last line is `N passed, N failed`, the sum over all suites.
 * Exit status: 0 all passed, 1 something failed, 2 usage.
 */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { parseArgs } from 'node:util'
import { excerpt } from './failures.ts'
import { endSuites, hasTime, type Outcome, root, runSuite } from './run-suite.ts'
import { type Suite, suites } from './suites.ts'

const help = `Usage: scripts/test [--only NAME]… [--tag TAG]… [--full] [--until TIME] [--list]
  --only NAME  this suite only (repeatable)
  --tag TAG    suites with this tag only (repeatable)
  --full       also the suites that are too long for \`make test\`
  --until TIME seconds since 1970: a suite that cannot end by then is left out, one that has not ended is cut off; both are told
  --list       show the suites and stop`

function usageError(message: string): never {
  console.error(`${message}\n${help}`)
  process.exit(2)
}

interface Arguments {
  only: string[]
  tags: string[]
  full: boolean
  /** Milliseconds since 1970. */
  untilMs: number
  list: boolean
}

function readArguments(): Arguments {
  try {
    const { values } = parseArgs({
      options: {
        only: { type: 'string', multiple: true, default: [] },
        tag: { type: 'string', multiple: true, default: [] },
        full: { type: 'boolean', default: false },
        until: { type: 'string' },
        list: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    })
    if (values.help) {
      console.log(help)
      process.exit(0)
    }
    const { only, tag: tags, full, until, list } = values
    if (until !== undefined && !/^\d+$/.test(until)) usageError(`scripts/test: --until takes whole seconds since 1970, not "${until}"`)
    return { only, tags, full, untilMs: until === undefined ? Number.POSITIVE_INFINITY : Number(until) * 1000, list }
  } catch (error) {
    usageError(`scripts/test: ${(error as Error).message}`)
  }
}

function select(only: string[], tags: string[], full: boolean): Suite[] {
  const unknown = only.find((name) => !suites.some((suite) => suite.name === name))
  if (unknown !== undefined) usageError(`scripts/test: no suite is called "${unknown}"; --list shows them`)
  const chosen = suites.filter(
    (suite) =>
      (only.length === 0 || only.includes(suite.name)) &&
      (tags.length === 0 || suite.tags.some((tag) => tags.includes(tag))) &&
      (full || only.includes(suite.name) || !suite.fullOnly),
  )
  if (chosen.length === 0) usageError(`scripts/test: no suite has the tag "${tags.join('" or "')}"; --list shows them`)
  return chosen
}

function tell({ suite, counts, reason, remark, isCutOff, seconds }: Outcome): void {
  const mark = reason !== '' ? 'FAIL ' : isCutOff ? 'cut  ' : 'ok   '
  if (process.stdout.isTTY) process.stdout.write('\r\u001B[K')
  const line = `${mark} ${suite.name.padEnd(28)} ${`${counts.passed} passed, ${counts.failed} failed`.padEnd(26)} ${seconds.toFixed(1).padStart(7)} s  ${remark}`
  console.log(line.trimEnd())
}

function showFailures(outcomes: Outcome[]): void {
  for (const { suite, reason, logPath } of outcomes) {
    if (reason === '') continue
    console.log(`\n--- ${suite.name}: ${reason}; from ${logPath}:`)
    for (const line of excerpt(readFileSync(path.join(root, logPath), 'utf8'), suite.counts)) console.log(`    ${line}`)
  }
  const failed = outcomes.filter(({ reason }) => reason !== '')
  if (failed.length > 0) console.log('\nFailed:')
  for (const { suite, reason, logPath } of failed) console.log(`  ${suite.name}: ${reason} (${logPath})`)
}

const { only, tags, full, untilMs, list } = readArguments()
const chosen = select(only, tags, full)
if (list) {
  for (const suite of chosen) console.log(`${suite.name.padEnd(28)} ${suite.tags.join(', ').padEnd(20)} ${suite.command.join(' ')}`)
  process.exit(0)
}
let interruptedBy: 'SIGINT' | 'SIGTERM' | undefined
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    interruptedBy = signal
    endSuites()
  })
}
const outcomes: Outcome[] = []
for (const suite of chosen) {
  const leftMs = untilMs - Date.now()
  if (!hasTime(suite, leftMs)) {
    console.log(
      `-     ${suite.name.padEnd(28)} left out: it may take ${suite.timeoutSeconds} s, and ${Math.max(0, Math.floor(leftMs / 1000))} s are left`,
    )
    continue
  }
  if (process.stdout.isTTY) process.stdout.write(`      ${suite.name} …`)
  const outcome = await runSuite(suite, leftMs)
  tell(outcome)
  outcomes.push(outcome)
  if (interruptedBy !== undefined) {
    // A limit of a CI may have ended it: what failed until then is worth knowing all the more.
    showFailures(outcomes)
    console.error(`scripts/test: ended by ${interruptedBy}`)
    process.exit(interruptedBy === 'SIGINT' ? 130 : 143)
  }
}
showFailures(outcomes)
const passed = outcomes.reduce((sum, { counts }) => sum + counts.passed, 0)
const failed = outcomes.reduce((sum, { counts }) => sum + counts.failed, 0)
console.log(`${passed} passed, ${failed} failed`)
// Nothing shown is nothing passed.
process.exitCode = failed > 0 || passed === 0 ? 1 : 0
