/**
 * `make demo`: three block devices, their bytes from TypeScript, from Rust memory and from a file, each used as a disk is used.
 *
 * Runs on this machine if that can serve devices, else in the virtual machine. Exit status: 0 all is well, 1 something is wrong,
 * 2 usage, 130 after Ctrl-C.
 */
import { cpus, release } from 'node:os'
import { parseArgs } from 'node:util'
import type { LatencyStats } from 'ublk'
import { contestants } from './contestants.ts'
import { obstacleHere, runInVm } from './place.ts'
import { type Figures, prove } from './proof.ts'
import { failure, formatMs, heading, note, say, table } from './terminal.ts'

const HELP = `Usage: make demo [ARGS='--here | --vm']
  --here  on this machine, without asking whether it can
  --vm    in the virtual machine, although this machine could`

interface Outcome {
  name: string
  figures: Figures | null
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { here: { type: 'boolean' }, vm: { type: 'boolean' }, help: { type: 'boolean' } } })
  if (values.help) {
    say(HELP)
    return 0
  }
  const obstacle = values.here || values.vm ? null : obstacleHere()
  if (obstacle === null && !values.vm) return await showAll()
  if (obstacle?.isFinal) throw Object.assign(new Error(`The demo cannot run: ${obstacle.reason}`), { hint: obstacle.hint })
  if (obstacle !== null) say(`Not on this machine: ${obstacle.reason}. ${obstacle.hint}`.trimEnd())
  say('Starting a virtual machine with a kernel that has ublk …')
  return runInVm()
}

async function showAll(): Promise<number> {
  const startedMs = performance.now()
  const stop = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => stop.abort(new Error(`stopped by ${signal}`)))
  say(`Linux ${release()}, Node.js ${process.version}, ${cpus().length} CPUs${process.env.UBLK_VM ? ', in the virtual machine' : ''}`)

  const outcomes: Outcome[] = []
  for (const [index, contestant] of contestants.entries()) {
    heading(`${index + 1}/${contestants.length} ${contestant.name}: ${contestant.how}`)
    try {
      outcomes.push({ name: contestant.name, figures: await prove(contestant, stop.signal) })
    } catch (error) {
      if (stop.signal.aborted) {
        say('\nStopped; everything is cleaned up.')
        return 130
      }
      failure(error)
      outcomes.push({ name: contestant.name, figures: null })
    }
  }
  showTable(outcomes)
  const failed = outcomes.filter(({ figures }) => figures === null).length
  say(`\n${failed === 0 ? 'All is well' : `${failed} of ${outcomes.length} failed`}, ${formatMs(performance.now() - startedMs)}.`)
  return failed === 0 ? 0 : 1
}

function showTable(outcomes: Outcome[]): void {
  const header = ['backend', 'read IOPS', 'write IOPS', 'read P50/P99 µs', 'write P50/P99 µs', 'verified', 'result']
  const latency = ({ p50, p99 }: LatencyStats): string => `${Math.round(p50)} / ${Math.round(p99)}`
  const rows = outcomes.map(({ name, figures }) => {
    if (figures === null) return [name, '', '', '', '', '', 'FAILED']
    const { readIops, writeIops, stats, verifiedMib } = figures
    const { read, write } = stats.operations
    const rates = [readIops, writeIops].map((iops) => String(Math.round(iops)))
    return [name, ...rates, latency(read.latency), latency(write.latency), `${verifiedMib} MiB`, 'ok']
  })
  table(header, rows)
  note('IOPS: fio, 4 KiB, depth 32, checksums included. P50, P99: time in the server, from Device#stats() and `ublk stats`.')
  if (process.env.UBLK_VM) note('On an emulated machine these are no measure of speed: see `make bench`.')
}

try {
  process.exitCode = await main()
} catch (error) {
  failure(error)
  process.exitCode = (error as { code?: string }).code?.startsWith('ERR_PARSE_ARGS') ? 2 : 1
}
