import test from 'ava'
import faulty, { isBad } from '../../examples/faulty.ts'
import { example, serve, sh, shell } from './support.ts'

const BLOCKS = 64

/** Numbers of the blocks that cannot be read. */
async function unreadable(path: string): Promise<number[]> {
  const { stdout } = await shell(`for i in $(seq 0 ${BLOCKS - 1}); do
    dd if=${path} of=/dev/null bs=4k count=1 skip=$i iflag=direct status=none 2>/dev/null || echo $i
  done`)
  return stdout.split('\n').filter(Boolean).map(Number)
}

test.serial('faulty.ts fails the blocks that its seed chooses, and no others', async (t) => {
  const backendOptions = { size: '256KiB', seed: '7', readErrors: '0.2' }
  const device = await serve(t, { backend: example('faulty.ts'), backendOptions }, { mayFail: true })
  const expected = Array.from({ length: BLOCKS }, (_, block) => block).filter((block) => isBad(7, 'read', block, 0.2))
  t.true(expected.length > 5 && expected.length < 25, `${expected.length} of ${BLOCKS} for a rate of 0.2`)
  t.deepEqual(await unreadable(device.path), expected)
  t.true(device.stats().operations.read.errors >= expected.length)
})

test.serial('faulty.ts chooses other blocks for another seed and for writes', (t) => {
  const bad = (seed: number, op: 'read' | 'write'): string =>
    Array.from({ length: 1000 }, (_, block) => (isBad(seed, op, block, 0.05) ? block : '')).join()
  t.is(new Set([bad(1, 'read'), bad(2, 'read'), bad(1, 'write'), bad(2, 'write')]).size, 4)
})

test.serial('faulty.ts fails a range with the error that was asked for', async (t) => {
  const device = await serve(t, { backend: faulty({ size: '256KiB', badRange: '64K-128K', error: 'ENOSPC' }) }, { mayFail: true })
  t.deepEqual(
    await unreadable(device.path),
    Array.from({ length: 16 }, (_, index) => 16 + index),
  )
  const write = await shell(`dd if=/dev/zero of=${device.path} bs=4k count=1 seek=16 oflag=direct`)
  t.regex(write.stderr, /No space left on device/)
})

test.serial('faulty.ts takes its time', async (t) => {
  const device = await serve(t, { backend: example('faulty.ts'), backendOptions: { size: '1MiB', latencyMs: '300' } })
  const startedMs = performance.now()
  await sh(`dd if=${device.path} of=/dev/null bs=4k count=1 iflag=direct status=none`)
  t.true(performance.now() - startedMs >= 300)
  t.true(device.stats().operations.read.latency.p50 >= 290_000)
})
