import { readFileSync } from 'node:fs'
import test from 'ava'
import { UblkError } from '../../src/errors.ts'
import * as layout from '../../src/layout.ts'

test('the rings hold every tag twice, in a power of two', (t) => {
  t.deepEqual([1, 2, 3, 100, 128, 129, 4096].map(layout.ringCapacity), [2, 4, 8, 256, 256, 512, 8192])
  t.is(layout.completionsAt(128), 128 + 8 * 256)
  t.is(layout.controlWords(128), 128 + 10 * 256)
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
  t.is(slots, 16)
  t.is(slab.length, 16 * 4096 + 4096)
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
