import test from 'ava'
import { columns, pairs } from '../src/lib/columns.ts'
import { prometheusText } from '../src/lib/metrics.ts'
import { parseCpus, parseSettings } from '../src/lib/parse-target.ts'
import { formatTarget, withFlagNames } from '../src/lib/target.ts'
import { formatBytes, formatNanoseconds, parseDurationMs } from '../src/lib/units.ts'

test('columns are as wide as their widest cell; numbers stand right', (t) => {
  const rows = [
    ['0', '/dev/ublkb0', '7'],
    ['12', '/dev/b1', '-'],
  ]
  t.is(columns(['ID', 'PATH', 'PID'], rows), ['ID  PATH         PID', ' 0  /dev/ublkb0    7', '12  /dev/b1        -'].join('\n'))
  t.is(columns(['ID', 'PATH'], []), 'ID  PATH')
})

test('pairs align their values', (t) => {
  t.is(
    pairs([
      ['id', '1'],
      ['path', 'x'],
      ['none', ''],
    ]),
    'id    1\npath  x\nnone',
  )
})

test('bytes are in IEC units', (t) => {
  t.deepEqual([0, 512, 1024, 1536, 2 ** 30, 250 * 2 ** 30, 2 ** 50, 2 ** 53].map(formatBytes), [
    '0B',
    '512B',
    '1KiB',
    '1.5KiB',
    '1GiB',
    '250GiB',
    '1PiB',
    '8PiB',
  ])
})

test('latencies have the unit that fits', (t) => {
  t.deepEqual([0, 999, 1_500, 12_340_000, 2_500_000_000].map(formatNanoseconds), ['0ns', '999ns', '1.5us', '12.3ms', '2.5s'])
})

test('CPUs: numbers and ranges, each once', (t) => {
  t.deepEqual(parseCpus('0-2,8,1'), [0, 1, 2, 8])
  for (const text of ['', ',', '1,', '-1', '1-', '2-1', 'a', '1-2-3', '65536']) t.throws(() => parseCpus(text), { message: /--cpus/ })
})

test('durations: ms, s, m, bare seconds', (t) => {
  t.deepEqual(
    ['500ms', '20s', '0.5s', '1m', '3'].map((text) => parseDurationMs(text, '--timeout')),
    [500, 20_000, 500, 60_000, 3_000],
  )
  for (const text of ['', '0', '-1s', '5x', '1h', 'ms']) t.throws(() => parseDurationMs(text, '--timeout'), { message: /--timeout/ })
  t.is(parseDurationMs('1440m', '--timeout'), 86_400_000)
  t.throws(() => parseDurationMs('1441m', '--timeout'), { message: '--timeout 1441m is longer than a day' })
})

test('settings: the value may hold = and be empty, a later one wins', (t) => {
  t.deepEqual(parseSettings(['url=http://h/?a=b', 'empty=', 'n=1', 'n=2']), { url: 'http://h/?a=b', empty: '', n: '2' })
  for (const text of ['word', '=x']) t.throws(() => parseSettings([text]), { message: /key=value/ })
})

test('the library’s option names become flags, and only in front', (t) => {
  t.is(withFlagNames('maxIoBytes must be small'), '--max-io must be small')
  t.is(withFlagNames('file.size must be small'), '--size must be small')
  t.is(withFlagNames('the size must be small'), 'the size must be small')
})

test('targets in one line', (t) => {
  t.is(formatTarget({ type: 'mem' }), 'mem')
  t.is(formatTarget({ type: 'file', path: '/a b', direct: false, create: false }), 'file /a b')
  t.is(formatTarget({ type: 'stripe', paths: ['/a', '/b'], direct: false, create: false }), 'stripe /a /b')
  t.is(formatTarget({ type: 'fault', over: { type: 'mem' }, faults: {} }), 'fault over mem')
  t.is(formatTarget({ type: 'module', path: '/x.ts', options: {} }), '/x.ts')
})

const NONE = { requests: 0, bytes: 0, errors: 0, latency: { mean: 0, p50: 0, p99: 0, p999: 0, max: 0 } }
const STATS = {
  operations: {
    read: { requests: 4, bytes: 16_384, errors: 1, latency: { mean: 10, p50: 8, p99: 20, p999: 25, max: 30 } },
    write: NONE,
    flush: NONE,
    discard: NONE,
    writeZeroes: NONE,
  },
  inFlight: 2,
  enters: 3,
  completions: 9,
  legs: [
    { path: '/a', state: 'in-sync' as const, error: null, resyncedBytes: null },
    { path: '/b', state: 'resyncing' as const, error: null, resyncedBytes: 4096 },
  ],
}

test('metrics: each family has HELP and TYPE before its samples, and none appears twice', (t) => {
  const lines = prometheusText({ id: 3, size: 4096, target: 'mem', stats: STATS, warnings: 2 }).trimEnd().split('\n')
  const seen = new Set<string>()
  let family = ''
  for (const line of lines) {
    const comment = /^# (HELP|TYPE) (\w+) .+$/.exec(line)
    if (comment?.[1] === 'HELP') {
      family = comment[2] ?? ''
      t.false(seen.has(family), family)
      seen.add(family)
    } else if (comment === null) {
      t.regex(line, /^[a-z_]+\{(\w+="[^"]*",?)+\} [\d.e+-]+$/)
      t.true(line.startsWith(family), line)
    }
  }
  t.true(lines.includes('ublk_requests_total{device="3",op="read"} 4'))
  t.true(lines.includes('ublk_request_errors_total{device="3",op="read"} 1'))
  t.true(lines.includes('ublk_request_duration_seconds{device="3",op="read",quantile="0.99"} 0.00002'))
  t.true(lines.includes('ublk_request_duration_seconds_sum{device="3",op="read"} 0.00004'))
  t.true(lines.includes('ublk_request_duration_seconds_count{device="3",op="read"} 4'))
  t.true(lines.includes('ublk_requests_in_flight{device="3"} 2'))
  t.true(lines.includes('ublk_warnings_total{device="3"} 2'))
  t.true(lines.includes('ublk_leg_in_sync{device="3",path="/a",state="in-sync"} 1'))
  t.true(lines.includes('ublk_leg_in_sync{device="3",path="/b",state="resyncing"} 0'))
})

test('metrics: label values are escaped', (t) => {
  const text = prometheusText({ id: 0, size: 1, target: 'file /a"b\\c\nd', stats: STATS, warnings: 0 })
  t.true(text.includes('target="file /a\\"b\\\\c\\nd"'))
})
