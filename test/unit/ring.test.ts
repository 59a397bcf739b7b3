import { setImmediate as turn } from 'node:timers/promises'
import test from 'ava'
import type { Backend } from '../../src/backend.ts'
import { JS_REFUSES, OP_DISCARD, OP_EXPIRED, OP_FLUSH, OP_READ, OP_WRITE, OP_WRITE_ZEROES, REQUEST_TAIL } from '../../src/layout.ts'
import type { BlockRequest } from '../../src/request.ts'
import { type HandlerFailure, Ring } from '../../src/ring.ts'
import { copy, KernelSide } from './kernel-side.ts'

const EIO = -5

interface Setup {
  kernel: KernelSide
  ring: Ring
  failures: HandlerFailure[]
  publishes: () => number
}

function setup(backend: Partial<Backend>, { depth = 8, sync = false, start = 0, maxIoBytes = 4096 } = {}): Setup {
  const kernel = new KernelSide(depth, maxIoBytes, start)
  const failures: HandlerFailure[] = []
  let publishes = 0
  const ring = new Ring({
    backend: { read: () => {}, ...backend },
    memory: kernel.memory,
    queue: 3,
    depth,
    maxIoBytes,
    copy,
    sync,
    onPublish: () => publishes++,
    onFailure: (failure) => failures.push(failure),
  })
  return { kernel, ring, failures, publishes: () => publishes }
}

test('a read handler gets its view of the slab, the offset, and the request', (t) => {
  let seen: Partial<BlockRequest> & { bytes?: number } = {}
  const { kernel, ring } = setup({
    read(buf, offset, { op, length, fua, queue, tag }) {
      seen = { op, offset, length, fua, queue, tag, bytes: buf.length }
      buf.write('hello')
    },
  })
  kernel.request({ tag: 5, op: OP_READ, length: 1024, sector: 2 ** 33 + 7 })
  t.is(ring.drain(), 1)
  t.deepEqual(seen, { op: 'read', offset: (2 ** 33 + 7) * 512, length: 1024, fua: false, queue: 3, tag: 5, bytes: 1024 })
  t.deepEqual(kernel.completions(), [{ tag: 5, generation: 0, result: 1024 }])
  t.is(kernel.data(5, 5).toString(), 'hello')
  t.is(kernel.control[REQUEST_TAIL], 1)
})

test('the view is made once for a slot and length, and again when they change', (t) => {
  const views: Buffer[] = []
  const { kernel, ring } = setup({ read: (buf) => void views.push(buf) })
  kernel.request({ tag: 0, op: OP_READ })
  ring.drain()
  kernel.request(
    { tag: 0, op: OP_READ, generation: 1 },
    { tag: 0, op: OP_READ, length: 1024 },
    { tag: 0, op: OP_READ, length: 1024, slot: 8 },
  )
  ring.drain()
  t.is(views[0], views[1])
  t.not(views[1], views[2])
  t.is(views[3]?.byteOffset, 512 + 8 * 4096)
})

test('each operation reaches its handler; what the backend lacks is EOPNOTSUPP, and a flush without flush is done', (t) => {
  const calls: unknown[][] = []
  const full = setup({
    write: (buf, offset) => void calls.push(['write', buf.length, offset]),
    flush: () => void calls.push(['flush']),
    discard: (offset, length) => void calls.push(['discard', offset, length]),
    writeZeroes: (offset, length) => void calls.push(['writeZeroes', offset, length]),
  })
  full.kernel.request(
    { tag: 0, op: OP_WRITE, sector: 1 },
    { tag: 1, op: OP_FLUSH, length: 0 },
    { tag: 2, op: OP_DISCARD, length: 0xffff_fe00 },
    { tag: 3, op: OP_WRITE_ZEROES, length: 8192 },
  )
  full.ring.drain()
  t.deepEqual(calls, [['write', 512, 512], ['flush'], ['discard', 0, 0xffff_fe00], ['writeZeroes', 0, 8192]])
  t.deepEqual(full.kernel.results(), [512, 0, 0xffff_fe00 | 0, 8192])

  const bare = setup({})
  bare.kernel.request(
    { tag: 0, op: OP_WRITE },
    { tag: 1, op: OP_FLUSH, length: 0 },
    { tag: 2, op: OP_DISCARD },
    { tag: 3, op: OP_WRITE_ZEROES },
    { tag: 4, op: 99 },
  )
  bare.ring.drain()
  t.deepEqual(bare.kernel.results(), [-95, 0, -95, -95, -95])
})

for (const { name, answer, result, told } of [
  { name: 'nothing is the whole length', answer: undefined, result: 512, told: false },
  { name: 'a part of the length', answer: 100, result: 100, told: false },
  { name: 'the length', answer: 512, result: 512, told: false },
  { name: 'a negative errno', answer: -28, result: -28, told: false },
  { name: 'the largest errno', answer: -4095, result: -4095, told: false },
  { name: 'zero bytes', answer: 0, result: EIO, told: true },
  { name: 'more than the length', answer: 513, result: EIO, told: true },
  { name: 'less than any errno', answer: -4096, result: EIO, told: true },
  { name: 'a fraction', answer: 1.5, result: EIO, told: true },
  { name: 'NaN', answer: Number.NaN, result: EIO, told: true },
  { name: 'null', answer: null, result: EIO, told: true },
  { name: 'text', answer: '512', result: EIO, told: true },
  { name: 'a bigint', answer: 512n, result: EIO, told: true },
  { name: 'an object without a prototype', answer: Object.create(null), result: EIO, told: true },
]) {
  for (const way of ['returned', 'resolved'] as const) {
    test(`a read handler's answer, ${way}: ${name} becomes ${result}`, async (t) => {
      const { kernel, ring, failures } = setup({ read: () => (way === 'returned' ? answer : Promise.resolve(answer)) as number })
      kernel.request({ tag: 1, op: OP_READ })
      ring.drain()
      await turn()
      t.deepEqual(kernel.results(), [result])
      t.is(failures.length, told ? 1 : 0)
      if (told) t.regex(failures[0]!.message, /read of 512 bytes at 0 returned .*; a handler returns nothing when all is done/)
    })
  }
}

test('a discard is done whole or not at all', (t) => {
  const { kernel, ring } = setup({ write: () => {}, discard: () => 100, writeZeroes: () => 512 })
  kernel.request({ tag: 0, op: OP_DISCARD }, { tag: 1, op: OP_WRITE_ZEROES })
  ring.drain()
  t.deepEqual(kernel.results(), [EIO, 512])
})

for (const { name, error, errno } of [
  { name: 'errno', error: Object.assign(new Error('x'), { errno: -28 }), errno: -28 },
  { name: 'positive errno', error: Object.assign(new Error('x'), { errno: 30 }), errno: -30 },
  { name: 'errno before code', error: Object.assign(new Error('x'), { errno: -28, code: 'EACCES' }), errno: -28 },
  { name: 'code', error: Object.assign(new Error('x'), { code: 'ENOSPC' }), errno: -28 },
  { name: 'a libuv errno of no use, then its code', error: Object.assign(new Error('x'), { errno: -3008, code: 'ENOTFOUND' }), errno: EIO },
  { name: 'a code that is no errno', error: Object.assign(new Error('x'), { code: 'ERR_X' }), errno: EIO },
  { name: 'a plain error', error: new Error('x'), errno: EIO },
  { name: 'no error at all', error: undefined, errno: EIO },
  { name: 'text', error: 'x', errno: EIO },
  { name: 'an object without a prototype', error: Object.create(null), errno: EIO },
  {
    name: 'an error whose errno throws',
    error: Object.defineProperty(new Error('x'), 'errno', {
      get() {
        throw new Error('no')
      },
    }),
    errno: EIO,
  },
]) {
  for (const way of ['throws', 'rejects'] as const) {
    test(`a handler ${way}: ${name} becomes ${errno}, with the error as cause`, async (t) => {
      const { kernel, ring, failures } = setup({
        read() {
          if (way === 'throws') throw error
          return Promise.reject(error)
        },
      })
      kernel.request({ tag: 1, op: OP_READ })
      ring.drain()
      await turn()
      t.deepEqual(kernel.results(), [errno])
      t.is(failures.length, 1)
      t.is(failures[0]?.cause, error)
      t.regex(failures[0]!.message, /read of 512 bytes at 0 failed/)
    })
  }
}

test('failures are told once a second, with the number left out', async (t) => {
  const { kernel, ring, failures } = setup({
    read() {
      throw new Error('x')
    },
  })
  const fail = (generation: number): void => {
    kernel.request({ tag: 0, op: OP_READ, generation })
    ring.drain()
  }
  for (let i = 0; i < 5; i++) fail(i)
  t.is(failures.length, 1)
  await new Promise((resolve) => setTimeout(resolve, 1050))
  fail(6)
  t.is(failures.length, 2)
  t.regex(failures[1]!.message, /and 4 more/)
})

test('promises that settle in one turn are published once, in the order they settle', async (t) => {
  const settle: (() => void)[] = []
  const { kernel, ring, publishes } = setup({ read: () => new Promise<void>((resolve) => settle.push(resolve)) })
  kernel.request({ tag: 0, op: OP_READ }, { tag: 1, op: OP_READ }, { tag: 2, op: OP_READ })
  t.is(ring.drain(), 0)
  t.deepEqual(kernel.completions(), [])
  settle[2]?.()
  settle[0]?.()
  await turn()
  t.deepEqual(
    kernel.completions().map(({ tag }) => tag),
    [2, 0],
  )
  t.is(publishes(), 1)
  settle[1]?.()
  await turn()
  t.deepEqual(kernel.completions(), [{ tag: 1, generation: 0, result: 512 }])
  t.is(publishes(), 2)
})

test('a thenable that settles twice, or never was a promise, completes its request once', async (t) => {
  const { kernel, ring } = setup({
    // biome-ignore lint/suspicious/noThenProperty: a thenable is the subject
    read: () => ({ then: (resolve: (n: number) => void) => [resolve(512), resolve(100)] }) as unknown as Promise<number>,
  })
  kernel.request({ tag: 0, op: OP_READ })
  ring.drain()
  await turn()
  t.deepEqual(kernel.results(), [512])
})

test('the object of a tag serves its next request, also after a promise', async (t) => {
  const requests: BlockRequest[] = []
  const { kernel, ring } = setup({
    read(_buf, _offset, req) {
      requests.push(req)
      return requests.length % 2 === 0 ? undefined : Promise.resolve()
    },
  })
  for (let generation = 0; generation < 4; generation++) {
    kernel.request({ tag: 2, op: OP_READ, generation })
    ring.drain()
    await turn()
  }
  t.is(kernel.completions().length, 4)
  t.is(new Set(requests).size, 1)
})

test('the late answer of a request whose tag was given away changes nothing, and its buffer is its own', async (t) => {
  const opens: { settle: (n: number) => void; buf: Buffer; req: BlockRequest }[] = []
  const { kernel, ring } = setup({ read: (buf, _offset, req) => new Promise<number>((settle) => opens.push({ settle, buf, req })) })
  kernel.request({ tag: 1, op: OP_READ, generation: 7, sector: 1 })
  ring.drain()
  const { signal } = opens[0]!.req
  kernel.request({ tag: 1, op: OP_READ, generation: 8, sector: 2, slot: 8 })
  ring.drain()
  t.true(signal.aborted)
  t.not(opens[0]?.req, opens[1]?.req)
  t.is(opens[0]?.req.offset, 512)
  t.not(opens[0]?.buf.byteOffset, opens[1]?.buf.byteOffset)
  opens[0]?.settle(100)
  await turn()
  t.deepEqual(kernel.completions(), [{ tag: 1, generation: 7, result: 0 }], 'its own key: native takes the slot back')
  opens[1]?.settle(512)
  await turn()
  t.deepEqual(kernel.completions(), [{ tag: 1, generation: 8, result: 512 }])
})

test('the signal of a request aborts when native says that it is past its deadline', async (t) => {
  const opens: { settle: () => void; signal: AbortSignal }[] = []
  const { kernel, ring } = setup({
    read: (_buf, _offset, { signal }) => new Promise<void>((settle) => opens.push({ settle, signal })),
  })
  kernel.request({ tag: 1, op: OP_READ, generation: 7 }, { tag: 2, op: OP_READ, generation: 3 })
  ring.drain()
  kernel.request({ tag: 1, op: OP_EXPIRED, generation: 7 }, { tag: 2, op: OP_EXPIRED, generation: 2 })
  ring.drain()
  t.deepEqual(
    opens.map(({ signal }) => signal.aborted),
    [true, false],
    'only the request of that generation',
  )
  t.deepEqual(kernel.completions(), [], 'a notice wants no answer')
  for (const { settle } of opens) settle()
  await turn()
  t.deepEqual(kernel.completions(), [
    { tag: 1, generation: 7, result: 0 },
    { tag: 2, generation: 3, result: 512 },
  ])
  kernel.request({ tag: 1, op: OP_EXPIRED, generation: 7 })
  t.is(ring.drain(), 0, 'a request that was answered meanwhile')
})

test('a drain stops after 1024 requests and says that more wait', (t) => {
  const { kernel, ring } = setup({}, { depth: 2048 })
  for (let tag = 0; tag < 1500; tag++) kernel.request({ tag, op: OP_READ })
  // The clock may end a drain earlier.
  let drains = 0
  let served = 0
  while (ring.hasRequests) {
    const count = ring.drain()
    t.true(count <= 1024)
    served += count
    drains++
  }
  t.true(drains >= 2)
  t.is(served, 1500)
  t.is(kernel.completions().length, 1500)
})

test('a drain stops when handlers took longer than its time', (t) => {
  const { kernel, ring } = setup(
    {
      read() {
        const end = performance.now() + 1
        while (performance.now() < end);
      },
    },
    { depth: 512 },
  )
  for (let tag = 0; tag < 512; tag++) kernel.request({ tag, op: OP_READ })
  t.is(ring.drain(), 32)
  t.true(ring.hasRequests)
})

test('the indexes run free past 2^31', (t) => {
  const { kernel, ring } = setup({}, { start: 0x7fff_fffd })
  for (let round = 0; round < 4; round++) {
    kernel.request({ tag: 0, op: OP_READ, generation: round }, { tag: 1, op: OP_READ, generation: round })
    t.is(ring.drain(), 2)
    t.is(kernel.completions().length, 2)
  }
})

test('a FUA write is followed by a flush, and answers its own bytes', async (t) => {
  const order: string[] = []
  const { kernel, ring } = setup({
    async write(_buf, _offset, { fua }) {
      order.push(`write fua=${fua}`)
      await turn()
      return 300
    },
    async flush() {
      await turn()
      order.push('flush')
    },
  })
  kernel.request({ tag: 0, op: OP_WRITE, fua: true }, { tag: 1, op: OP_WRITE })
  ring.drain()
  while (order.length < 3) await turn()
  await turn()
  t.deepEqual(order, ['write fua=true', 'write fua=false', 'flush'])
  t.deepEqual(
    kernel.completions().sort((a, b) => a.tag - b.tag),
    [
      { tag: 0, generation: 0, result: 300 },
      { tag: 1, generation: 0, result: 300 },
    ],
  )
})

test('a FUA write fails when its flush does, and a failed write is not flushed', (t) => {
  let flushes = 0
  const { kernel, ring } = setup({
    write: (_buf, offset) => (offset === 0 ? undefined : -28),
    flush() {
      flushes++
      throw Object.assign(new Error('disk gone'), { code: 'ENODEV' })
    },
  })
  kernel.request({ tag: 0, op: OP_WRITE, fua: true }, { tag: 1, op: OP_WRITE, fua: true, sector: 1 })
  ring.drain()
  t.deepEqual(kernel.results(), [-19, -28])
  t.is(flushes, 1)
})

test('a backend with native FUA is not flushed by the library', (t) => {
  let fua: boolean | undefined
  const { kernel, ring } = setup({
    write(_buf, _offset, req) {
      fua = req.fua
    },
    flush: () => t.fail(),
    supports: { fua: 'native' },
  })
  kernel.request({ tag: 0, op: OP_WRITE, fua: true })
  ring.drain()
  t.deepEqual(kernel.results(), [512])
  t.true(fua)
})

test('a promise from a backend that says sync is EIO and told', async (t) => {
  const { kernel, ring, failures } = setup({ read: () => Promise.reject(new Error('x')) }, { sync: true })
  kernel.request({ tag: 0, op: OP_READ })
  ring.drain()
  await turn()
  t.deepEqual(kernel.results(), [EIO])
  t.regex(failures[0]!.message, /returned a promise, but the backend says sync: true/)
})

test('refuse answers what is open and what comes, aborts signals, and lets no late answer through', async (t) => {
  const opens: { settle: () => void; signal: AbortSignal }[] = []
  const { kernel, ring, publishes } = setup({
    read: (_b, _o, { signal }) => new Promise<void>((settle) => opens.push({ settle, signal })),
  })
  kernel.request({ tag: 0, op: OP_READ }, { tag: 1, op: OP_READ })
  ring.drain()
  t.is(kernel.control[JS_REFUSES], 0)
  ring.refuse(new Error('device failed'))
  t.is(kernel.control[JS_REFUSES], 1, 'native gives the slots of handlers that go on to nobody')
  t.deepEqual(kernel.results(), [EIO, EIO])
  t.is(publishes(), 1)
  t.true(opens.every(({ signal }) => signal.aborted))
  kernel.request({ tag: 0, op: OP_READ, generation: 1 })
  ring.drain()
  t.deepEqual(kernel.results(), [EIO])
  t.is(opens.length, 2)
  for (const { settle } of opens) settle()
  await turn()
  t.deepEqual(kernel.completions(), [])
})

test('the signal of an answered request never aborts', (t) => {
  const signals: AbortSignal[] = []
  const { kernel, ring } = setup({ read: (_b, _o, req) => void signals.push(req.signal) })
  kernel.request({ tag: 0, op: OP_READ })
  ring.drain()
  ring.refuse(new Error('x'))
  t.false(signals[0]?.aborted)
})

test('zeroFill and copyTo move the data of the request, within their bounds', (t) => {
  const store = Buffer.alloc(2048)
  const { kernel, ring } = setup({
    read: (_b, _o, req) => req.zeroFill(),
    write(_buf, _offset, req) {
      t.is(req.copyTo(store, 1536), 512)
      for (const offset of [1537, -1, 0.5]) t.throws(() => req.copyTo(store, offset), { instanceOf: RangeError, code: 'ERR_OUT_OF_RANGE' })
    },
  })
  kernel.data(0).fill(0xaa)
  kernel.data(1).fill(0xbb)
  kernel.request({ tag: 0, op: OP_READ }, { tag: 1, op: OP_WRITE })
  ring.drain()
  t.true(kernel.data(0, 512).every((byte) => byte === 0))
  t.is(kernel.data(0)[512], 0xaa)
  t.true(store.subarray(1536).every((byte) => byte === 0xbb))
  t.is(store[1535], 0)
})
