/**
 * csi-sanity against the driver with real mounts, in the VM: guest.ts PROVIDER TOOL. The last line is `N passed, N failed`.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { startDaemon, startRouter } from '../support/backends.ts'
import { type Running, startProgram } from '../support/programs.ts'
import { type SanityCounts, summarize } from './report.ts'

/** Of the 103 specs so many run at least; the others need what a provider does not have. */
const FEWEST_RAN: Record<string, number> = { ublk: 80, rds: 60 }
const MIB = 1024 * 1024
const directory = '/run/csi-sanity'

const [provider = 'ublk', tool = 'csi-sanity', only] = process.argv.slice(2)
mkdirSync(directory, { recursive: true })
const socket = join(directory, 'csi.sock')
const processes = await startDriver()
let failures = 0
let passed = 0
for (const access of ['mount', 'block']) {
  if (only !== undefined && only !== access) continue
  const counts = runSanity(access)
  passed += counts.passed
  failures += counts.failed
  if (counts.ran < (FEWEST_RAN[provider] ?? 1)) {
    console.log(`FAILED: only ${counts.ran} specs ran on ${provider}, ${access}; there should be ${FEWEST_RAN[provider]}`)
    failures += 1
  }
}
for (const running of processes.reverse()) await running.end()
if (failures > 0) for (const running of processes) console.log(running.text().split('\n').slice(-200).join('\n'))
console.log(`${passed} passed, ${failures} failed`)
process.exitCode = failures > 0 ? 1 : 0

async function startDriver(): Promise<Running[]> {
  const { running, flags } = provider === 'rds' ? await startRouter(join(directory, 'router')) : await startDaemon(join(directory, 'pool'))
  const common = ['--mode', 'all', '--provider', provider, '--node-id', 'node-1', '--max-volumes', '3', '--endpoint', `unix://${socket}`]
  const plugin = startProgram([...common, ...flags])
  await plugin.says('"serving"')
  return [running, plugin]
}

function runSanity(access: string): SanityCounts {
  const report = join(directory, `${access}.json`)
  const { status, stdout, stderr } = spawnSync(
    tool,
    [
      `--csi.endpoint=unix://${socket}`,
      `--csi.mountdir=${directory}/target`,
      `--csi.stagingdir=${directory}/staging`,
      `--csi.testvolumesize=${64 * MIB}`,
      `--csi.testvolumeexpandsize=${128 * MIB}`,
      '--csi.testnodevolumeattachlimit=true',
      `--csi.testvolumeaccesstype=${access}`,
      `--ginkgo.json-report=${report}`,
      '--ginkgo.no-color',
    ],
    { encoding: 'utf8', maxBuffer: 64 * MIB, timeout: 15 * 60_000 },
  )
  try {
    const { counts, lines } = summarize(`${provider}, ${access}`, JSON.parse(readFileSync(report, 'utf8')))
    console.log(lines.join('\n'))
    return counts
  } catch (error) {
    console.log(`csi-sanity ended with ${status} and left no report: ${error}\n${stdout.slice(-4000)}\n${stderr.slice(-4000)}`)
    return { ran: 0, passed: 0, failed: 1, skipped: 0 }
  }
}
