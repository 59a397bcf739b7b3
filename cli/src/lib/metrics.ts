/** Statistics as Prometheus text (exposition format 0.0.4). Times are seconds, as its conventions ask. */

import type { DeviceStats, OperationStats } from 'ublk'

export const METRICS_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

/** What is measured of which device. */
export interface MeasuredDevice {
  id: number
  size: number
  target: string
  stats: DeviceStats
  /** How many it has given so far. */
  warnings: number
}

type Labels = Record<string, string | number>

const MICROSECONDS_PER_SECOND = 1_000_000

export function prometheusText({ id, size, target, stats, warnings }: MeasuredDevice): string {
  const operations = Object.entries(stats.operations)
  const perOperation = (value: (operation: OperationStats) => number): string[] =>
    operations.map(([op, operation]) => sample('', { device: id, op }, value(operation)))
  return [
    family('ublk_device_info', 'gauge', 'The device; always 1.', [sample('', { device: id, target }, 1)]),
    family('ublk_device_size_bytes', 'gauge', 'Size of the device.', [sample('', { device: id }, size)]),
    family(
      'ublk_requests_total',
      'counter',
      'Requests answered.',
      perOperation((operation) => operation.requests),
    ),
    family(
      'ublk_request_errors_total',
      'counter',
      'Requests answered with an error.',
      perOperation((operation) => operation.errors),
    ),
    family(
      'ublk_request_bytes_total',
      'counter',
      'Bytes of the requests answered.',
      perOperation((operation) => operation.bytes),
    ),
    family(
      'ublk_request_duration_seconds',
      'summary',
      'Time from the arrival of a request in the server to its answer.',
      operations.flatMap(([op, operation]) => summary({ device: id, op }, operation)),
    ),
    family('ublk_requests_in_flight', 'gauge', 'Requests that the server holds now.', [sample('', { device: id }, stats.inFlight)]),
    family('ublk_warnings_total', 'counter', 'Warnings of the device: `ublk stats` has the last ones.', [
      sample('', { device: id }, warnings),
    ]),
    family(
      'ublk_leg_in_sync',
      'gauge',
      'Whether the leg of a mirror has every acknowledged write.',
      stats.legs.map(({ path, state }) => sample('', { device: id, path, state }, state === 'in-sync' ? 1 : 0)),
    ),
    family('ublk_ring_enters_total', 'counter', 'Calls of io_uring_enter.', [sample('', { device: id }, stats.enters)]),
    family('ublk_ring_completions_total', 'counter', 'Completions taken from the rings.', [sample('', { device: id }, stats.completions)]),
  ].join('')
}

function summary(labels: Labels, { requests, latency }: OperationStats): string[] {
  const seconds = (microseconds: number): number => microseconds / MICROSECONDS_PER_SECOND
  return [
    sample('', { ...labels, quantile: '0.5' }, seconds(latency.p50)),
    sample('', { ...labels, quantile: '0.99' }, seconds(latency.p99)),
    sample('', { ...labels, quantile: '0.999' }, seconds(latency.p999)),
    sample('_sum', labels, seconds(latency.mean * requests)),
    sample('_count', labels, requests),
  ]
}

/** One line of a family, without the family's name in front. */
function sample(suffix: string, labels: Labels, value: number): string {
  const pairs = Object.entries(labels).map(([name, text]) => `${name}="${escapeLabel(String(text))}"`)
  return `${suffix}{${pairs.join(',')}} ${value}`
}

function family(name: string, type: string, help: string, samples: string[]): string {
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${samples.map((line) => `${name}${line}\n`).join('')}`
}

function escapeLabel(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"')
}
