import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import test from 'ava'
import { temporaryDirectory, ublk } from '../program.ts'
import { add, assertNothingLeft, del, leftovers } from './device.ts'

test.afterEach.always(async (t) => {
  if (leftovers().length > 0) await ublk(['del', '--all'])
  await assertNothingLeft(t)
})

/** Type, state and write pointer of each zone. */
function zones(device: string): string[] {
  const report = execFileSync('blkzone', ['report', device], { encoding: 'utf8' })
  return report
    .trimEnd()
    .split('\n')
    .map((line) => line.replace(/^.* wptr (0x\w+) .* zcond:.*\((\w+)\) .*type: \d\((\w+)\).*$/, '$3 $2 $1'))
}

const FLAGS = [
  '--size',
  '8M',
  '--zone-size',
  '1M',
  '--zone-capacity',
  '512K',
  '--conventional',
  '1',
  '--max-open',
  '2',
  '--max-active',
  '3',
]

test.serial('add zoned PATH makes a zoned disk that is as it was when it is served again', async (t) => {
  const directory = temporaryDirectory()
  t.teardown(directory.remove)
  const path = join(directory.path, 'disk')
  const device = await add(t, 'zoned', path, ...FLAGS)
  t.like(device, { dataPath: 'user-copy', target: { type: 'zoned' } })
  t.true(device.flags.includes('ZONED'))
  const write = ['if=/dev/urandom', `of=${device.path}`, 'bs=4k', 'count=2', 'seek=512', 'oflag=direct', 'status=none']
  execFileSync('dd', write)
  const before = zones(device.path)
  t.deepEqual(before.slice(0, 4), [
    'CONVENTIONAL nw 0x000000',
    'SEQ_WRITE_REQUIRED em 0x000000',
    'SEQ_WRITE_REQUIRED oi 0x000010',
    before[1],
  ])
  await del(t, String(device.id))

  const again = await add(t, 'zoned', path, ...FLAGS)
  t.is(zones(again.path)[2], 'SEQ_WRITE_REQUIRED cl 0x000010')
  await del(t, String(again.id))
  const other = await ublk(['add', 'zoned', path, '--size', '16M', '--zone-size', '1M', '--json'])
  t.is(other.status, 1)
  t.like(JSON.parse(other.stdout).error, { code: 'ERR_UBLK_FILE' })
  t.regex(other.stdout, /disk\.zones: is for 8 zones of 2048 sectors, 1 of them conventional/)
})
