import test from 'ava'
import { errorOf, temporaryDirectory, ublk } from './program.ts'

/** Wrong arguments, and what the message must name. */
const CASES: [args: string[], message: RegExp][] = [
  [['nonsense'], /nonsense/],
  [['list', '--bogus'], /--bogus/],
  [['list', 'stray'], /stray/],
  [['add'], /TARGET/],
  [['add', 'ram'], /"ram"/],
  [['add', 'mem'], /--size/],
  [['add', 'mem', '--size', '12Q'], /--size .*'12Q'/],
  [['add', 'mem', '--size', '1000'], /--size .*512.*1000/],
  [['add', 'mem', '-s', '1G', '-q', '0'], /--queues .*from 1 to 4096, got 0/],
  [['add', 'mem', '-s', '1G', '-d', '4097'], /--depth .*4097/],
  [['add', 'mem', '-s', '1G', '-q', 'two'], /--queues .*two/],
  [['add', 'mem', '-s', '1G', '-n', 'x'], /"x"/],
  [['add', 'mem', '-s', '1G', '--block-size', '100'], /--block-size .*100/],
  [['add', 'mem', '-s', '1G', '--physical-block-size', '1000'], /--physical-block-size .*1000/],
  [['add', 'mem', '-s', '1G', '--max-io', '3'], /--max-io .*'3'/],
  [['add', 'mem', '-s', '1G', '--recovery', 'maybe'], /--recovery.*maybe.*reissue/],
  [['add', 'mem', '-s', '1G', '-r', '--recovery', 'off'], /recovery/],
  [['add', 'mem', '-s', '1G', '--data-path', 'fast'], /--data-path.*fast/],
  [['add', 'nbd', 'nbd://a/x', '--timeout', 'soon'], /--timeout soon/],
  [['add', 'mem', '-s', '1G', '--timeout', '5s'], /--timeout .*nbd.*modules.* mem/],
  [['add', 'fault', '--over', 'mem', '-s', '1G', '--timeout', '5s'], /--timeout .*nbd.*modules.* mem/],
  [['add', 'mem', '-s', '1G', '--direct'], /--direct .*mem/],
  [['add', 'mem', '-s', '1G', '--create'], /--create .*mem/],
  [['add', 'mem', '-s', '1G', '--set', 'a=b'], /--set .*mem/],
  [['add', 'mem', '-s', '1G', '--foreground', '--run', 'true'], /--?foreground|--?run/],
  [['add', 'mem', 'disk.img', '-s', '1G'], /disk\.img/],
  [['add', 'file'], /path/],
  [['add', 'mem', '-s', '1G', '--integrity', 'size'], /--integrity .*"size"/],
  [['add', 'mem', '-s', '1G', '--integrity', 'size=8,csum=t10dif=x'], /--integrity .*"csum=t10dif=x"/],
  [['add', 'mem', '-s', '1G', '--integrity', 'csum=md5'], /--integrity csum .*'md5'/],
  [['add', 'mem', '-s', '1G', '--integrity', 'size=4,csum=ip'], /--integrity size .*from 8 to 255, got 4/],
  [['add', 'mem', '-s', '1G', '--integrity', 'csum=ip,tag-size=3,reftag'], /--integrity tag-size .*from 0 to 2, got 3/],
  [['add', 'zoned', '-s', '1G', '--integrity', 'csum=ip'], /--integrity .*left out/],
  [['add', 'zoned'], /--size/],
  [['add', 'zoned', 'a', 'b', '-s', '1G'], /b/],
  [['add', 'zoned', '-s', '1G', '--zone-size', '3M'], /--zone-size .*'3M'/],
  [['add', 'zoned', '-s', '1G', '--conventional', '16'], /--conventional .*16/],
  [['add', 'zoned', '-s', '1G', '--data-path', 'copy'], /--data-path .*user-copy/],
  [['add', 'mem', '-s', '1G', '--max-open', '2'], /--max-open .*zoned.* mem/],
  [['add', 'file', 'a', 'b'], /b/],
  [['add', 'mem', '-s', '1G', '--bogus'], /--bogus/],
  [['add', 'stripe', 'a'], /stripe needs the paths of 2/],
  [['add', 'stripe', 'a', 'b', '--chunk', '5000'], /--chunk .*power of two.*5000/],
  [['add', 'mem', '-s', '1G', '--chunk', '64K'], /--chunk .*mem/],
  [['add', 'mirror', 'a'], /mirror needs the paths of 2/],
  [['add', 'mirror', ...'abcdefghi'], /unexpected argument i/],
  [['add', 'nbd'], /URI/],
  [['add', 'nbd', 'nbd://a/x', 'b'], /unexpected argument b/],
  [['add', 'nbd', 'nbd://a/x', '--timeout', '61m'], /--timeout .*from 0 to 3600000, got 3660000/],
  [['add', 'nbd', 'nbd://a/x', '--patience', '61m'], /--patience .*from 0 to 3600000, got 3660000/],
  [['add', 'mem', '-s', '1G', '--patience', '1m'], /--patience .*nbd.* mem/],
  [['add', 'mem', '-s', '1G', '--cpus', '0-'], /--cpus 0- /],
  [['add', 'mem', '-s', '1G', '--cpus', '3-1'], /--cpus 3-1 /],
  [['add', 'mem', '-s', '1G', '--cpus', '70000'], /--cpus 70000 /],
  [['add', 'nbd', 'nbds://a/x?tls-certificate=/pki'], /tls-certificate must be of tls-certificates=DIR/],
  [['add', 'nbd', 'nbd://a/x?tls-certificates=/pki'], /nbds:/],
  [['add', 'fault'], /--over/],
  [['add', 'fault', 'mem', '-s', '1G'], /mem/],
  [['add', 'fault', '--over', 'fault', '--over', 'mem', '-s', '1G'], /--over/],
  [['add', 'fault', '--over', 'mem'], /--size/],
  [['add', 'fault', '--over', 'mem', '-s', '1G', '--delay', 'soon'], /--delay soon/],
  [['add', 'fault', '--over', 'mem', '-s', '1G', '--delay', '28s', '--unprivileged'], /--delay .*less than 28000 .*got 28000/],
  [['add', 'fault', '--over', 'mem', '-s', '1G', '--error-rate', '1.5'], /--error-rate 1\.5/],
  [['add', 'fault', '--over', 'mem', '-s', '1G', '--error-ops', 'read,erase'], /"erase"/],
  [['add', 'fault', '--over', 'mem', '-s', '1G', '--error-range', '1M'], /--error-range 1M/],
  [['add', 'fault', '--over', 'mem', '-s', '1G', '--error-range', '2M-1M'], /--error-range .*more than/],
  [['add', 'fault', '--over', 'mem', '-s', '1G', '--torn-write-rate', 'half'], /--torn-write-rate half/],
  [['add', 'fault', '--over', 'mem', '-s', '1G', '--seed', '-1'], /--seed .*-1/],
  [['add', 'fault', '--over', 'mem', '-s', '1G', '--die-at', 'dawn'], /--die-at.*dawn/],
  [['add', 'fault', '--over', 'mem', '-s', '1G', '--die-after', '3'], /--die-at/],
  [['add', 'fault', '--over', 'mem', '-s', '1G', '--die-at', 'fetch', '--die-after', '0'], /--die-after .*0/],
  [['add', 'file', 'a', '--delay', '1s'], /--delay .*fault/],
  [['info', 'x'], /"x"/],
  [['info', '-1'], /-1/],
  [['stats', '/dev/sda'], /"\/dev\/sda"/],
  [['stop'], /id/],
  [['stop', '1', '2'], /2/],
  [['del'], /--all/],
  [['del', '1', '--all'], /--all/],
  [['del', 'ublkb1'], /"ublkb1"/],
]

for (const [args, message] of CASES) {
  test.serial(`exit status 2 and one clear line: ublk ${args.join(' ')}`, async (t) => {
    const [text, json] = await Promise.all([ublk(args), ublk([...args, '--json'])])
    t.is(text.status, 2, text.stderr)
    t.is(text.stdout, '')
    t.regex(text.stderr, /^ublk: [^\n]+\n(hint: [^\n]+\n)?$/)
    t.regex(text.stderr, message)
    t.is(json.status, 2)
    t.is(json.stderr, '')
    const error = errorOf(json)
    t.is(error.exitCode, 2)
    t.regex(error.code, /^ERR_(UBLK_USAGE|INVALID_ARG_|OUT_OF_RANGE)/)
    t.true(text.stderr.startsWith(`ublk: ${error.message}\n`))
    t.true('hint' in error)
  })
}

test.serial('a missing module is one line with its path, exit status 1', async (t) => {
  const { status, stderr } = await ublk(['add', './missing.ts'], { cwd: '/tmp' })
  t.is(status, 1)
  t.regex(stderr, /^ublk: there is no module \/tmp\/missing\.ts\nhint: /)
})

test.serial('--set takes key=value only', async (t) => {
  const directory = temporaryDirectory({ 'backend.ts': 'export default { size: 4096, read() {} }' })
  t.teardown(directory.remove)
  const { status, stderr } = await ublk(['add', './backend.ts', '--set', 'a=1', '--set', 'word'], { cwd: directory.path })
  t.is(status, 2)
  t.regex(stderr, /--set word/)
})

test.serial('--timeout of a module is less than the kernel would wait', async (t) => {
  const directory = temporaryDirectory({ 'backend.ts': 'export default { size: 4096, read() {} }' })
  t.teardown(directory.remove)
  const { status, stderr } = await ublk(['add', './backend.ts', '--timeout', '50s'], { cwd: directory.path })
  t.is(status, 2)
  t.regex(stderr, /--timeout in milliseconds must be .* 29999, got 50000/)
})

test.serial('stack traces appear with DEBUG=ublk only', async (t) => {
  const args = ['del']
  t.notRegex((await ublk(args)).stderr, /^ {4}at /m)
  t.regex((await ublk(args, { env: { DEBUG: 'ublk' } })).stderr, /^ {4}at /m)
})
