/**
 * The measuring program. Runs as root in the guest that bench/run boots, one CPU, everything else asleep.
 *
 *   node bench/measure.ts [--only FIGURE]… [--compare] [--modes] [--rounds N] [--seconds S] --out FILE
 *
 * All contestants of a group are live at once and take turns job by job, round by round: what changes during a boot changes for all.
 */
import { execFile, execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'
import { type Contestant, contestants, leftBehind, modeContestants, type Serving, SIZE } from './contestants.ts'
import { figures, STARTS } from './figures.ts'
import { fill, type Job, measure } from './fio.ts'
import { modeFigures } from './modes.ts'
import { contextSwitches, cpuTime, growth, residentBytes } from './processes.ts'
import type { Idle, Results, Run, Starts } from './results.ts'

const CREATIONS = 50
const ROUNDS_OF_STARTS = 5
const IDLE_SECONDS = 10
/** A started Node.js tidies its memory up for some seconds. */
const SETTLE_SECONDS = 20
/** What a contestant of no figure does in a comparison. */
const ALL_JOBS: Job[] = ['read-4k-qd64', 'write-4k-qd64', 'read-4k-qd1', 'read-128k-qd16', 'write-128k-qd16']

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', multiple: true, default: [] },
    compare: { type: 'boolean', default: false },
    modes: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '2' },
    seconds: { type: 'string', default: '1' },
    out: { type: 'string' },
  },
})
const rounds = Number(options.rounds)
const seconds = Number(options.seconds)
const run = promisify(execFile)
const sleep = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds))

const entered = options.modes ? modeContestants : contestants
const wanted = [...(options.modes ? modeFigures : figures)].filter(({ id }) => options.only.length === 0 || options.only.includes(id))
const wants = (value: string): boolean => wanted.some((figure) => figure.kind === 'single' && figure.value === value)

/** Jobs by contestant. */
const plan = new Map<string, Set<Job>>()
for (const figure of wanted) {
  const sides = figure.kind === 'compared' ? [figure.ours, figure.peer] : figure.kind === 'mode' ? Object.values(figure.sides) : []
  for (const { contestant, job } of sides) include(contestant, job)
}
if (options.compare) for (const { name } of contestants) for (const job of ALL_JOBS) include(name, job)

function include(contestant: string, job: Job): void {
  plan.set(contestant, (plan.get(contestant) ?? new Set()).add(job))
}

const results: Results = {
  environment: {
    kernel: readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim(),
    node: process.version,
    fio: execFileSync('fio', ['--version'], { encoding: 'utf8' }).trim(),
    seconds: String(seconds),
    rounds: String(rounds),
    size: SIZE,
  },
  missing: {},
  runs: [],
  createToLive: [],
  starts: null,
  idle: [],
}

if (wants('createToLive')) results.createToLive = (await answerOf('./create.ts', CREATIONS)) as number[]
if (STARTS.some(wants)) results.starts = (await answerOf('./startup.ts', ROUNDS_OF_STARTS)) as Starts
if (wants('idleWakeUps') || wants('idleResidentBytes')) {
  for (const server of leftBehind) results.idle.push(await watchIdle(server))
}
for (const group of ['null', 'memory', 'file'] as const) {
  await race(entered.filter((contestant) => contestant.group === group && plan.has(contestant.name)))
}
writeFileSync(options.out ?? '/dev/stdout', JSON.stringify(results, null, 2))

/** What a program of this directory prints, as JSON: one that has a process to itself. */
async function answerOf(program: string, count: number): Promise<unknown> {
  const { stdout } = await run(process.execPath, [fileURLToPath(new URL(program, import.meta.url)), String(count)])
  return JSON.parse(stdout)
}

/** Measures contestants side by side. */
async function race(entrants: Contestant[]): Promise<void> {
  const live: Array<{ name: string; serving: Serving }> = []
  try {
    for (const contestant of entrants) {
      const missing = contestant.missing()
      if (missing !== null) results.missing[contestant.name] = missing
      else live.push({ name: contestant.name, serving: await start(contestant) })
    }
    // Round 0 warms up JavaScript's compiler, and does not count. In the ways of the driver no JavaScript serves.
    for (let round = options.modes ? 1 : 0; round <= rounds; round++) {
      for (const job of ALL_JOBS) {
        for (const { name, serving } of live) {
          if (!plan.get(name)?.has(job)) continue
          const one = await measureOne(name, serving, job, round)
          if (round > 0) results.runs.push(one)
        }
      }
    }
  } finally {
    for (const { serving } of live) await serving.stop()
  }
}

async function start(contestant: Contestant): Promise<Serving> {
  console.error(`${contestant.name}: starting`)
  const serving = await contestant.start()
  await settle()
  await fill(serving.path)
  return serving
}

async function measureOne(contestant: string, serving: Serving, job: Job, round: number): Promise<Run> {
  await settle()
  const entersBefore = await serving.enters()
  const before = cpuTime(serving.pids)
  const { requests, rate, bytesPerSecond } = await measure(job, serving.path, seconds)
  const serverNanoseconds = growth(before, cpuTime(serving.pids))
  const enters = await serving.enters()
  const one: Run = {
    contestant,
    job,
    round,
    requests,
    rate,
    bytesPerSecond,
    serverNanosecondsPerRequest: serving.pids.length === 0 ? null : serverNanoseconds / requests,
    entersPerRequest: enters === null || entersBefore === null ? null : (enters - entersBefore) / requests,
  }
  const cpu = one.serverNanosecondsPerRequest
  console.error(
    `${round === 0 ? 'warm-up: ' : ''}${contestant}, ${job}: ${rate.toFixed(0)} per second${cpu === null ? '' : `, server ${cpu.toFixed(0)} ns per request`}`,
  )
  return one
}

/** Starts a server, leaves it alone, and counts how often it wakes up. */
async function watchIdle({ name, start }: (typeof leftBehind)[number]): Promise<Idle> {
  const { pids, stop } = await start()
  await settle()
  await sleep(SETTLE_SECONDS * 1000)
  const before = contextSwitches(pids)
  await sleep(IDLE_SECONDS * 1000)
  const wakeUps = growth(before, contextSwitches(pids))
  const resident = pids.reduce((sum, pid) => sum + residentBytes(pid), 0)
  await stop()
  console.error(`${name}, idle: ${wakeUps} wake-ups in ${IDLE_SECONDS} s, ${(resident / 1e6).toFixed(1)} MB`)
  return { contestant: name, wakeUpsPerSecond: wakeUps / IDLE_SECONDS, residentBytes: resident }
}

/** udev looks at a device after it was made, and after each program that had it open for writing: not while somebody measures. */
async function settle(): Promise<void> {
  await run('udevadm', ['settle'])
}
