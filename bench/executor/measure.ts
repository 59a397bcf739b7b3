/**
 * Runs the contestants in turns, each run a process of its own: measure by measure, round by round, A B C A B C.
 *
 *   node bench/executor/measure.ts --out FILE [--rounds N] [--only MEASURE]… [--directory D] [--counted]
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { measures, type Results, type Sample } from './measures.ts'

const RUN_LIMIT_MS = 120_000
const FILE_BYTES = 64 << 20

const { values: options } = parseArgs({
  options: {
    out: { type: 'string' },
    rounds: { type: 'string', default: '1' },
    only: { type: 'string', multiple: true },
    directory: { type: 'string', default: os.tmpdir() },
    counted: { type: 'boolean', default: false },
  },
})
const names = [...new Set(measures.filter(({ isCountable }) => isCountable || !options.counted).map(({ name }) => name))]
for (const only of options.only ?? []) {
  if (!names.includes(only)) throw new RangeError(`no measure is called "${only}"; there are ${names.join(', ')}`)
}

const directory = mkdtempSync(path.join(options.directory, 'executor-bench-'))
try {
  const file = path.join(directory, 'pages')
  // Written, and not only allocated: an extent without data is not read from the disk.
  execFileSync('dd', ['if=/dev/urandom', `of=${file}`, 'bs=1M', `count=${FILE_BYTES >> 20}`, 'conv=fsync', 'status=none'])
  const results: Results = { environment: environment(), isCounted: options.counted, runs: [] }
  for (const measure of options.only ?? names) {
    const contestants = measures.find(({ name }) => name === measure)?.contestants ?? []
    for (let round = 0; round < Number(options.rounds); round++) {
      for (const contestant of contestants) {
        process.stderr.write(`${measure}, round ${round + 1}: ${contestant}\n`)
        results.runs.push({ measure, contestant, round, ...run(contestant, measure, file) })
      }
    }
  }
  writeFileSync(options.out ?? '/dev/stdout', JSON.stringify(results))
} finally {
  rmSync(directory, { recursive: true })
}

function run(contestant: string, measure: string, file: string): Sample {
  const program = path.join(import.meta.dirname, 'target/release', contestant)
  return JSON.parse(execFileSync(program, [measure, file], { encoding: 'utf8', timeout: RUN_LIMIT_MS })) as Sample
}

function environment(): string {
  const fileSystem = execFileSync('df', ['--output=fstype', directory], { encoding: 'utf8' }).trim().split('\n').at(-1)
  const place = options.counted ? 'one CPU that counts instructions' : `${os.cpus()[0]?.model}, ${os.cpus().length} CPUs, ${fileSystem}`
  return `Linux ${os.release()}, ${place}, median of ${options.rounds} rounds.`
}
