import * as Args from '@oclif/core/args'
import type { DeviceStats, LegStats } from 'ublk'
import { BaseCommand, parseId } from '../lib/base-command.ts'
import { columns } from '../lib/columns.ts'
import { type ErrorReport, EXIT, Failure, reportOf } from '../lib/failure.ts'
import type { Warning } from '../lib/serve.ts'
import { askServer } from '../lib/server-client.ts'
import { StateDirectory } from '../lib/state.ts'
import { formatBytes, formatNanoseconds } from '../lib/units.ts'

/** Answer of a server to `GET /stats`. Latencies are microseconds. */
interface ServedStats extends DeviceStats {
  id: number
  path: string
  /** Bytes of the device. This and the warnings a server of an older version does not give. */
  size?: number
  /** The last ones. */
  warnings?: Warning[]
}

/** `error`: of the servers that do not answer, where there are any. */
interface AllStats {
  devices: ServedStats[]
  error?: Pick<ErrorReport, 'code' | 'message' | 'hint' | 'exitCode'>
}

export default class Stats extends BaseCommand {
  static override summary = 'Show counters and latencies of one device, or of all that this program serves.'
  static override description =
    `Per operation: requests, bytes and errors since the device was added; the legs of a mirror; the last warnings; and the time from the arrival of a request in the server to its answer
(half, 99 % and 99.9 % of the requests took at most P50, P99 and P999). The server also has them for Prometheus, on its socket (see \`ublk info\`).

Without ID, the devices whose servers answer are shown also where another one does not: that is an error then, with --json beside the devices.`

  static override examples = [
    '<%= config.bin %> stats',
    '<%= config.bin %> stats 0 --json',
    { description: 'For Prometheus', command: 'curl --unix-socket /run/ublk/0.sock http://localhost/metrics' },
  ]

  static override args = { id: Args.string({ description: 'number N of /dev/ublkbN, or its path; without it, all devices' }) }

  async run(): Promise<ServedStats | AllStats> {
    const { args } = await this.parse(Stats)
    const directory = StateDirectory.forUser()
    if (args.id === undefined) return this.#all(directory)
    const stats = await statsOf(parseId(args.id), directory)
    this.log(format(stats))
    return stats
  }

  async #all(directory: StateDirectory): Promise<AllStats> {
    const { devices, silent } = await askAll(directory)
    const failure = failureOf(silent)
    if (devices.length > 0) this.log(devices.map(format).join('\n\n'))
    else if (failure === null) this.log('no device is served by this program')
    return failure === null ? { devices } : this.#fail(failure, devices)
  }

  /** Under --json there is one value for both, the devices and the error. */
  #fail(failure: Failure, devices: ServedStats[]): AllStats {
    if (!this.jsonEnabled()) throw failure
    const { code, message, hint, exitCode } = failure.report
    process.exitCode = exitCode
    return { devices, error: { code, message, hint, exitCode } }
  }
}

/** A server that does not answer. */
interface Silent {
  id: number
  report: ErrorReport
}

/** All servers at once, so that those that do not answer cost the time of one. */
async function askAll(directory: StateDirectory): Promise<{ devices: ServedStats[]; silent: Silent[] }> {
  const silent: Silent[] = []
  const served = directory.ids().filter((id) => directory.readServed(id) !== null)
  const asking = served.map(async (id) => {
    try {
      // A server may end while we ask.
      return await askServer<ServedStats>(directory.socketPath(id), 'GET', '/stats')
    } catch (error) {
      silent.push({ id, report: reportOf(error) })
      return null
    }
  })
  const devices = (await Promise.all(asking)).filter((answer) => answer !== null)
  return { devices, silent: silent.sort((a, b) => a.id - b.id) }
}

/** Names all that are silent; code and exit status are those of the first. */
function failureOf(silent: Silent[]): Failure | null {
  const [first] = silent
  if (first === undefined) return null
  return new Failure({ ...first.report, message: silent.map(({ id, report }) => `device ${id}: ${report.message}`).join('; ') })
}

async function statsOf(id: number, directory: StateDirectory): Promise<ServedStats> {
  const stats = await askServer<ServedStats>(directory.socketPath(id), 'GET', '/stats')
  if (stats !== null) return stats
  const { deviceInfo } = await import('ublk')
  const { pid } = await deviceInfo(id)
  throw new Failure({
    code: 'ERR_UBLK_NO_SERVER',
    message: `device ${id} has no server that keeps statistics${pid > 0 ? ` (process ${pid} serves it)` : ''}`,
    hint: 'Only devices made by `ublk add` have them.',
    deviceId: id,
    exitCode: EXIT.failed,
  })
}

function format({ id, path, operations, size, inFlight, legs, warnings = [] }: ServedStats): string {
  const us = (value: number): string => (value === 0 ? '-' : formatNanoseconds(value * 1_000))
  const rows = Object.entries(operations).map(([name, { requests, bytes, errors, latency }]) => [
    name,
    String(requests),
    formatBytes(bytes),
    String(errors),
    ...[latency.mean, latency.p50, latency.p99, latency.p999, latency.max].map(us),
  ])
  const header = ['OPERATION', 'REQUESTS', 'BYTES', 'ERRORS', 'MEAN', 'P50', 'P99', 'P999', 'MAX']
  return `device ${id} (${path}), ${inFlight} in flight\n${columns(header, rows)}${[...legs.map((leg) => formatLeg(leg, size)), ...warnings.map(formatWarning)].join('')}`
}

function formatWarning({ at, message }: Warning): string {
  return `\nwarning, ${at}: ${message}`
}

function formatLeg({ path, state, error, resyncedBytes }: LegStats, size: number | undefined): string {
  const detail = error ?? (resyncedBytes === null ? '' : progress(resyncedBytes, size))
  return `\n${path}: ${state}${detail === '' ? '' : ` (${detail})`}`
}

function progress(done: number, size: number | undefined): string {
  if (size === undefined) return `${formatBytes(done)} done`
  return `${formatBytes(done)} of ${formatBytes(size)}, ${Math.floor((done / size) * 100)} %`
}
