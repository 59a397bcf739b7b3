import * as Args from '@oclif/core/args'
import type { DeviceStats, LegStats } from 'ublk'
import { BaseCommand, parseId } from '../lib/base-command.ts'
import { columns } from '../lib/columns.ts'
import { EXIT, Failure } from '../lib/failure.ts'
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

export default class Stats extends BaseCommand {
  static override summary = 'Show counters and latencies of one device, or of all that this program serves.'
  static override description =
    `Per operation: requests, bytes and errors since the device was added; the legs of a mirror; the last warnings; and the time from the arrival of a request in the server to its answer
(half, 99 % and 99.9 % of the requests took at most P50, P99 and P999). The server also has them for Prometheus, on its socket (see \`ublk info\`).`

  static override examples = [
    '<%= config.bin %> stats',
    '<%= config.bin %> stats 0 --json',
    { description: 'For Prometheus', command: 'curl --unix-socket /run/ublk/0.sock http://localhost/metrics' },
  ]

  static override args = { id: Args.string({ description: 'number N of /dev/ublkbN, or its path; without it, all devices' }) }

  async run(): Promise<ServedStats | { devices: ServedStats[] }> {
    const { args } = await this.parse(Stats)
    const directory = StateDirectory.forUser()
    if (args.id !== undefined) {
      const stats = await statsOf(parseId(args.id), directory)
      this.log(format(stats))
      return stats
    }
    const served = directory.ids().filter((id) => directory.readServed(id) !== null)
    const answers = await Promise.all(served.map((id) => askServer<ServedStats>(directory.socketPath(id), 'GET', '/stats')))
    // A server may end while we ask.
    const devices = answers.filter((answer) => answer !== null)
    this.log(devices.map(format).join('\n\n') || 'no device is served by this program')
    return { devices }
  }
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
