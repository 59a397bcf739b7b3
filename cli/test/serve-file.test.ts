/** FILE of `ublk serve` and what needs no device: its errors, pauses, differences, the unit. */

import { execFile } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test from 'ava'
import { parseSize } from '../../src/index.ts'
import { EXIT } from '../src/lib/failure.ts'
import { difference, pauseMs } from '../src/lib/kept-device.ts'
import { resized } from '../src/lib/serve.ts'
import { DEFAULT_RESTART } from '../src/lib/serve-file.ts'
import type { Keeper, ServeSpec } from '../src/lib/target.ts'
import { unitText } from '../src/lib/unit.ts'
import { errorOf, temporaryDirectory, ublk } from './program.ts'

const mem = { name: 'a', add: ['mem', '-s', '16M'] }

/** What is wrong, and what the message must name besides the file. */
const WRONG: [what: string, text: unknown, message: RegExp][] = [
  ['no JSON', '{ "devices": [ // all\n] }', /main\.json is not JSON: .*\/\//],
  ['no object', [], /main\.json must be an object/],
  ['another key', { devices: [], device: [] }, /main\.json: there is no "device", only devices/],
  ['no array', { devices: {} }, /main\.json: "devices" must be an array/],
  ['no name', { devices: [{ add: ['null'] }] }, /devices\[0\]: "name" must be .* got undefined/],
  ['a bad name', { devices: [mem, { ...mem, name: 'a b' }] }, /devices\[1\]: "name" must be .* got "a b"/],
  ['one name twice', { devices: [mem, mem] }, /device "a": there are two of this name/],
  ['a stranger in a device', { devices: [{ ...mem, size: '1G' }] }, /device "a": there is no "size", only name, add, restart/],
  ['words as one string', { devices: [{ name: 'a', add: 'mem -s 1G' }] }, /device "a": "add" must be an array of strings/],
  ['no target', { devices: [{ name: 'a', add: ['ram'] }] }, /device "a": there is no target "ram"/],
  ['an unknown flag', { devices: [{ name: 'a', add: ['mem', '-s', '1G', '--bogus'] }] }, /device "a": .*--bogus/],
  ['no size', { devices: [{ name: 'a', add: ['mem'] }] }, /device "a": .*--size/],
  ['a rule of the library', { devices: [{ name: 'a', add: ['mem', '-s', '1000'] }] }, /device "a": --size .*512.*1000/],
  [
    'a flag that is not for files',
    { devices: [{ name: 'a', add: ['mem', '-s', '1G', '--foreground'] }] },
    /device "a": --foreground is not for/,
  ],
  [
    'one number twice',
    {
      devices: [
        { name: 'a', add: ['null', '-n', '3'] },
        { name: 'b', add: ['null', '-n', '3'] },
      ],
    },
    /device "b": --id 3 is .*"a"/,
  ],
  [
    'one file twice',
    {
      devices: [
        { name: 'a', add: ['file', 'x'] },
        { name: 'b', add: ['mirror', 'y', './x'] },
      ],
    },
    /device "b": .*\/x is also that of "a"/,
  ],
  [
    'a mirror that is made',
    { devices: [{ name: 'a', add: ['mirror', 'x', 'y', '--create', '-s', '1M'] }] },
    /device "a": --create would make a leg anew/,
  ],
  ['restart of another kind', { devices: [{ ...mem, restart: '1s' }] }, /device "a": "restart" must be an object/],
  ['an unknown limit', { devices: [{ ...mem, restart: { often: '1s' } }] }, /device "a": restart: there is no "often"/],
  ['no duration', { devices: [{ ...mem, restart: { delay: 'soon' } }] }, /device "a": restart\.delay soon is not a duration/],
  ['a number for a duration', { devices: [{ ...mem, restart: { rarely: 5 } }] }, /device "a": restart\.rarely must be a duration .* got 5/],
  [
    'a pause that no timer can wait for',
    { devices: [{ ...mem, restart: { rarely: '3600000' } }] },
    /device "a": restart\.rarely 3600000 is longer than a day/,
  ],
  ['no tries', { devices: [{ ...mem, restart: { tries: 0 } }] }, /device "a": restart\.tries must be a whole number from 1 on, got 0/],
]

for (const [what, content, message] of WRONG) {
  test.serial(`serve --check: ${what} is an error that names file, device and rule`, async (t) => {
    const directory = temporaryDirectory({ 'main.json': typeof content === 'string' ? content : JSON.stringify(content) })
    t.teardown(directory.remove)
    const { status, stdout, stderr } = await ublk(['serve', '--check', '-c', 'main.json'], { cwd: directory.path })
    t.is(status, 2, stderr)
    t.is(stdout, '')
    t.regex(stderr, /^ublk: [^\n]+\nhint: [^\n]+\n$/)
    t.true(stderr.includes(join(directory.path, 'main.json')), stderr)
    t.regex(stderr, message)
  })
}

test.serial(
  'serve --check: the words of add, with recovery where that is possible, and paths from the directory of the file',
  async (t) => {
    const devices = [
      { name: 'disk', add: ['file', 'sub/disk.img', '--create', '-s', '1G', '--id', '3'], restart: { delay: '1s', tries: 2 } },
      { name: 'mine', add: ['mem', '-s', '1G', '--recovery', 'requeue'] },
      { name: 'zones', add: ['zoned', '-s', '1G'] },
      { name: 'kept-zones', add: ['zoned', 'zones.img', '-s', '1G'] },
      { name: 'checked', add: ['file', 'checked.img', '--read-only', '--integrity', 'csum=ip'] },
      { name: 'one', add: ['file', 'both.img', '--read-only'] },
      { name: 'two', add: ['file', 'both.img', '--read-only'] },
    ]
    const directory = temporaryDirectory({ 'main.json': JSON.stringify({ devices }) })
    t.teardown(directory.remove)
    const { status, stdout } = await ublk(['serve', '--check', '--json', '-c', join(directory.path, 'main.json')])
    t.is(status, 0, stdout)
    const specs = JSON.parse(stdout).devices.map(({ spec }: { spec: ServeSpec }) => spec)
    t.deepEqual(specs[0], {
      target: { type: 'file', path: join(directory.path, 'sub/disk.img'), direct: false, create: true },
      device: { id: 3, size: '1G', recovery: 'reissue' },
    })
    t.deepEqual(
      specs.map(({ device }: ServeSpec) => device.recovery),
      ['reissue', 'requeue', 'off', 'requeue', 'reissue', 'reissue', 'reissue'],
    )
    t.is(
      (await ublk(['serve', '--check', '-c', join(directory.path, 'main.json')])).stdout,
      `${join(directory.path, 'main.json')}: 7 devices\n`,
    )
  },
)

test.serial('serve needs a file that is there', async (t) => {
  t.like(errorOf(await ublk(['serve', '--json'])), { exitCode: 2, message: 'serve needs --config FILE' })
  t.regex(errorOf(await ublk(['serve', '-c', '/nowhere/main.json', '--json'])).message, /ENOENT.*\/nowhere\/main\.json/)
})

test('pauses double up to the longest, and are rare when the tries are used up', (t) => {
  const restart = { delayMs: 100, longestMs: 1_000, tries: 6, rarelyMs: 60_000 }
  t.deepEqual(
    [1, 2, 3, 4, 5, 6, 7, 8].map((tries) => pauseMs(restart, tries)),
    [100, 200, 400, 800, 1_000, 1_000, 60_000, 60_000],
  )
  t.is(pauseMs({ ...DEFAULT_RESTART, tries: 1e9 }, 5_000), DEFAULT_RESTART.longestMs)
})

const spec = (add: string[], size: string | undefined, more = {}): ServeSpec & { keeper: Keeper } => ({
  target: { type: 'file', path: '/x', direct: false, create: true },
  device: { ...(size !== undefined && { size }), recovery: 'reissue', ...more },
  keeper: { file: '/main.json', name: 'a', add },
})
const wish = (is: ServeSpec, wanted: ServeSpec & { keeper: Keeper }) => difference(is, wanted, { parseSize })

test('what is to be done with a device: other words replace it, a larger size grows it, and what `ublk resize` did is no difference', (t) => {
  const byHand = { ...spec(['1G'], '1G'), device: { recovery: 'reissue', size: String(4 << 30) } } as ServeSpec
  t.is(wish(spec(['1G'], '1G'), spec(['1G'], '1G')), null)
  t.is(wish(byHand, spec(['1G'], '1G')), null, 'the same words')
  t.is(wish(spec(['1G'], '1G'), spec(['2G'], '2G')), 'grow')
  t.is(wish(spec(['1G'], '2147483648'), spec(['2G'], '2G')), null, 'it was grown to that')
  t.is(wish(spec(['2G'], '2G'), spec(['1G'], '1G')), 'replace')
  t.is(wish(spec(['1G'], '1G'), spec(['2G', '-q', '2'], '2G', { queues: 2 })), 'replace')
  t.is(wish(spec(['1G'], '1G'), spec([], undefined)), 'replace')
  t.is(wish(spec([], undefined), spec(['1G'], '1G')), 'replace')
})

/** Regression: two absent sizes were a difference. */
test('words in another order are no difference, also without a size', (t) => {
  const more = { queues: 2, depth: 64 }
  const words = (...add: string[]) => ['file', '/x', ...add]
  t.is(wish(spec(words('-q', '2', '-d', '64'), undefined, more), spec(words('-d', '64', '-q', '2'), undefined, more)), null)
  t.is(wish(spec(words('-s', '1G', '-q', '2'), '1G', more), spec(words('-q', '2', '-s', '1G'), '1G', more)), null)
})

/** Regression: the record kept the words from before, and a size given by hand was a difference from those of FILE: the device was made anew. */
for (const size of ['30G', '15G']) {
  test(`a device that has grown with FILE keeps the ${size} that \`ublk resize\` gives it then`, (t) => {
    const wanted = spec(['20G'], '20G')
    const made = spec(['10G'], '10G')
    t.is(wish(made, wanted), 'grow')
    const grown = resized(made, String(parseSize('20G')), wanted.keeper.add)
    t.is(wish(grown, wanted), null)
    t.is(wish(resized(grown, String(parseSize(size)), []), wanted), null)
  })
}

test('a size for a device that nobody keeps up leaves it so', (t) => {
  const { keeper: _, ...alone } = spec([], '1G')
  t.deepEqual(resized(alone, '2G', []), { ...alone, device: { ...alone.device, size: '2G' } })
})

test('the unit starts this program, leaves its servers alone, and is one that systemd understands', async (t) => {
  const unit = unitText(['/opt/100%/node', '/opt/ublk/run.js'])
  t.true(unit.includes('\nExecStart="/opt/100%%/node" "/opt/ublk/run.js" serve --config /etc/ublk/%i.json\n'))
  const lines = ['Type=notify', 'KillMode=process', 'Restart=on-failure', 'ExecReload=/bin/kill -HUP $MAINPID']
  for (const line of [...lines, `RestartPreventExitStatus=${EXIT.usage} ${EXIT.busy}`]) t.true(unit.includes(`\n${line}\n`), line)
  t.notRegex(unit, /^(ProtectClock|DeviceAllow|DevicePolicy|PrivateDevices)=/m, 'one of these forbids /dev/ublk-control')
  if (!existsSync('/usr/bin/systemd-analyze')) return t.log('no systemd-analyze here: see cli/test/device/serve.test.ts')
  const directory = temporaryDirectory({ 'ublk@.service': unitText([process.execPath, '/opt/ublk/run.js']) })
  t.teardown(directory.remove)
  const { stderr } = await promisify(execFile)('systemd-analyze', ['verify', join(directory.path, 'ublk@.service')])
  t.notRegex(stderr, /ublk@/)
})

test.serial('--help of serve lists every event of --json', async (t) => {
  const { stdout } = await ublk(['serve', '--help'])
  const told = /each event is one line: ([^.]*)\./.exec(stdout.replace(/\s+/g, ' '))?.[1]?.split(', ')
  const source = readFileSync(join(import.meta.dirname, '../src/lib/serve-events.ts'), 'utf8')
  const events = [...source.matchAll(/^ {4}case '(.*)':$/gm)].map(([, event]) => event)
  t.deepEqual(told?.sort(), events.sort())
})

test.serial('--print-unit prints it with the paths of this program', async (t) => {
  const { status, stdout } = await ublk(['serve', '--print-unit'])
  t.is(status, 0)
  t.regex(stdout, new RegExp(`^ExecStart="${process.execPath}" ".*/cli/bin/run\\.js" serve `, 'm'))
})
