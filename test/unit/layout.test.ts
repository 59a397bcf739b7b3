import { readFileSync } from 'node:fs'
import test from 'ava'
import { UblkError } from '../../src/errors.ts'
import * as layout from '../../src/layout.ts'

test('the rings hold every tag and every spare slot twice, in a power of two', (t) => {
  t.deepEqual([1, 16, 17, 112, 113, 4096].map(layout.ringCapacity), [64, 64, 128, 256, 512, 16384])
  t.is(layout.completionsAt(112), 128 + 8 * 256)
  t.is(layout.controlWords(112), 128 + 10 * 256)
})

test('words that different threads write lie in cache lines of their own', (t) => {
  const words = [
    layout.REQUEST_HEAD,
    layout.REQUEST_TAIL,
    layout.COMPLETION_HEAD,
    layout.COMPLETION_TAIL,
    layout.JS_SLEEPING,
    layout.NATIVE_SLEEPING,
    layout.STATE,
    layout.REQUESTS,
  ]
  const lines = words.map((word) => Math.floor((word * 4) / 64))
  t.is(new Set(lines).size, words.length)
})

test('the memory of a queue has room for slots, alignment and both rings', (t) => {
  const { slab, control, slots } = layout.allocateQueueMemory(8, 4096)
  t.is(slots, 8 + 16 + 1)
  t.is(slab.length, 25 * 4096 + 4096)
  t.is(control.length, 4 * layout.controlWords(8))
  t.true(slab.buffer instanceof SharedArrayBuffer && control.buffer instanceof SharedArrayBuffer)
})

test('memory that cannot be had is ERR_UBLK_NO_MEMORY', (t) => {
  t.throws(() => layout.allocateQueueMemory(2 ** 30, 2 ** 25), { instanceOf: UblkError, code: 'ERR_UBLK_NO_MEMORY' })
})

const RUST = new URL('../../crates/ublk-node/src/layout.rs', import.meta.url)

test('the Rust side has the same words by the same names', (t) => {
  const rust = Object.fromEntries(
    [...readFileSync(RUST, 'utf8').matchAll(/^pub\(crate\) const ([A-Z_]+): \w+ = (\d+);/gm)].map(([, name, value]) => [
      name,
      Number(value),
    ]),
  )
  t.true(Object.keys(rust).length >= 12)
  t.like(layout, rust)
  for (const name of ['REQUEST_HEAD', 'NATIVE_SLEEPING', 'SLAB_BASE', 'REQUESTS', 'TAG_BITS', 'STATE_ENDED']) t.true(name in rust, name)
})
