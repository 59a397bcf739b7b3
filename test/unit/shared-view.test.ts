import test from 'ava'
import { sharedViewClass, zero } from '../../src/shared-view.ts'
import { copy } from './kernel-side.ts'

let copies = 0
const View = sharedViewClass((...args) => {
  copies++
  copy(...args)
})
const make = (length: number): Buffer => {
  const view = new View(new SharedArrayBuffer(length + 64), 64, length)
  for (let i = 0; i < length; i++) view[i] = i % 251
  return view
}

test('a view is a Buffer in every way', (t) => {
  const view = make(4096)
  t.true(Buffer.isBuffer(view))
  t.true(view instanceof Buffer && view instanceof Uint8Array)
  t.is(view.byteOffset, 64)
  t.is(view.readUInt16LE(0), 0x0100)
  t.is(view.toString('hex', 0, 3), '000102')
  t.deepEqual(Buffer.concat([view]).length, 4096)
  view.write('text', 10)
  t.is(view.toString('latin1', 10, 14), 'text')
  t.is(view.equals(Buffer.from(view)), true)
})

test('copy does what Buffer#copy does, for all arguments', (t) => {
  const view = make(16_384)
  const plain = Buffer.from(view)
  const values = [undefined, 0, 1, 300, 12_000, 16_384, 50_000, 1.5, -1, Number.NaN, '3', null]
  for (const targetStart of values) {
    for (const sourceStart of values) {
      for (const sourceEnd of values) {
        const run = (source: Buffer): unknown => {
          const target = Buffer.alloc(10_000, 0xff)
          try {
            return [source.copy(target, targetStart as number, sourceStart as number, sourceEnd as number), target.toString('hex')]
          } catch (error) {
            return (error as { code: string }).code
          }
        }
        if (JSON.stringify(run(view)) !== JSON.stringify(run(plain))) t.fail(`copy(target, ${targetStart}, ${sourceStart}, ${sourceEnd})`)
      }
    }
  }
  t.throws(() => view.copy([] as unknown as Buffer), { code: 'ERR_INVALID_ARG_TYPE' })
})

test('long copies out of a view are native where V8 is slow at them, also from its parts', (t) => {
  const view = make(16_384)
  const target = Buffer.alloc(20_000)
  copies = 0
  t.is(view.copy(target, 100), 16_384)
  t.deepEqual(target.subarray(100, 16_484), Buffer.from(view))
  t.is(view.subarray(1000, 9000).copy(target), 8000)
  t.is(view.slice(1000, 9000).copy(target), 8000)
  t.deepEqual(target.subarray(0, 8000), Buffer.from(view.subarray(1000, 9000)))
  t.is(view.subarray(0, 4095).copy(target), 4095)
  t.is(copies, Number.parseInt(process.versions.node, 10) < 26 ? 3 : 0)
})

test('set takes what fits, and refuses the rest', (t) => {
  const view = make(4096)
  const source = Buffer.alloc(2000, 7)
  view.set(source, 2096)
  t.deepEqual(Buffer.from(view.subarray(2096)), source)
  t.is(view[2095], 2095 % 251)
  for (const [length, offset] of [
    [4097, 0],
    [4000, 97],
    [1, -1],
  ] as const) {
    t.throws(() => view.set(Buffer.alloc(length), offset), { instanceOf: RangeError })
  }
  view.set([1, 2, 3], 5)
  t.deepEqual([...view.subarray(5, 8)], [1, 2, 3])
})

test('fill and zero clear a view of any length, and nothing beside it', (t) => {
  for (const length of [0, 1, 512, 65_536, 65_537, 200_000]) {
    const memory = new SharedArrayBuffer(length + 128)
    const whole = Buffer.from(memory).fill(0xee)
    t.is(new View(memory, 64, length).fill(0).length, length)
    t.true(whole.subarray(64, 64 + length).every((byte) => byte === 0))
    t.true(whole.subarray(0, 64).every((byte) => byte === 0xee) && whole.subarray(64 + length).every((byte) => byte === 0xee))
  }
  const view = make(100)
  t.is(view.fill('ab').toString('latin1', 0, 4), 'abab')
  t.deepEqual([...view.fill(7, 1, 3).subarray(0, 4)], [97, 7, 7, 98])
  t.deepEqual([...view.fill(0, 0, 1).subarray(0, 2)], [0, 7])
  zero(view)
  t.true(view.every((byte) => byte === 0))
})
