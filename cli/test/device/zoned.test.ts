import { execFileSync } from 'node:child_process'
import { renameSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { temporaryDirectory, ublk } from '../program.ts'
import { add, assertNothingLeft, del, leftovers, list, waitUntil } from './device.ts'

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
  t.deepEqual(device.zones, { size: 1 << 20, maxOpen: 2, maxActive: 3, maxAppendBytes: 1 << 19 })
  t.regex((await ublk(['info', String(device.id)])).stdout, /^zones +8 of 1MiB; 2 open, 3 open or closed; appends up to 512KiB$/m)
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

test.serial('recover: the zones are where they were, and are not made anew', async (t) => {
  const directory = temporaryDirectory()
  t.teardown(directory.remove)
  const path = join(directory.path, 'disk')
  const { id, path: block, server } = await add(t, 'zoned', path, ...FLAGS, '--recovery', 'requeue')
  const write = (page: number) => execFileSync('dd', ['if=/dev/urandom', `of=${block}`, 'bs=4k', 'count=1', `seek=${page}`, 'oflag=direct'])
  write(512)
  process.kill(server.pid, 'SIGKILL')
  await waitUntil('it is quiesced', async () => (await list(t)).find((device) => device.id === id)?.state === 'quiesced')

  for (const name of [path, `${path}.zones`]) renameSync(name, `${name}.away`)
  const lost = await ublk(['recover', String(id), '--json'])
  t.like(JSON.parse(lost.stdout).error, { code: 'ERR_UBLK_FILE' })
  t.regex(lost.stdout, /disk: cannot be found, and is not made anew/)
  for (const name of [path, `${path}.zones`]) renameSync(`${name}.away`, name)

  t.is((await ublk(['recover', String(id)])).status, 0)
  t.is(zones(block)[2], 'SEQ_WRITE_REQUIRED cl 0x000008')
  write(513)
  t.is(zones(block)[2], 'SEQ_WRITE_REQUIRED oi 0x000010')
  await del(t, String(id))
})
