import { setImmediate as turn } from 'node:timers/promises'
import test from 'ava'
import type { Backend } from '../../src/backend.ts'
import { JS_SLEEPING, NATIVE_SLEEPING, OP_READ } from '../../src/layout.ts'
import { MainQueue } from '../../src/main-queue.ts'
import { copy, KernelSide } from './kernel-side.ts'

function setup(read: Backend['read'], depth = 8): { kernel: KernelSide; queue: MainQueue; kicks: () => number } {
  const kernel = new KernelSide(depth)
  let kicks = 0
  const options = { backend: { read }, memory: kernel.memory, queue: 0, depth, maxIoBytes: 4096, copy, onFailure: () => {} }
  const queue = new MainQueue(options, () => kicks++)
  return { kernel, queue, kicks: () => kicks }
}

test('it sleeps at first, and again when nothing is left', (t) => {
  const { kernel, queue } = setup(() => {})
  t.is(kernel.control[JS_SLEEPING], 1)
  kernel.request({ tag: 0, op: OP_READ })
  kernel.control[JS_SLEEPING] = 0 // native takes it before it wakes
  queue.wake()
  t.deepEqual(kernel.results(), [512])
  t.is(kernel.control[JS_SLEEPING], 1)
})

test('the owner of the ring is kicked once if it sleeps, and not otherwise', async (t) => {
  const settle: (() => void)[] = []
  const { kernel, queue, kicks } = setup(() => (settle.length < 2 ? new Promise<void>((resolve) => settle.push(resolve)) : undefined))
  kernel.control[NATIVE_SLEEPING] = 1
  kernel.request({ tag: 0, op: OP_READ }, { tag: 1, op: OP_READ }, { tag: 2, op: OP_READ })
  queue.wake()
  t.is(kicks(), 1)
  t.is(kernel.control[NATIVE_SLEEPING], 0)
  settle[0]?.()
  await turn()
  t.is(kicks(), 1)
  kernel.control[NATIVE_SLEEPING] = 1
  settle[1]?.()
  await turn()
  t.is(kicks(), 2)
})

test.serial('a request that comes while it falls asleep is served without a wake', async (t) => {
  const { kernel, queue } = setup(() => {})
  const { store } = Atomics
  let late = true
  // The moment that matters: native looked at JS_SLEEPING before JavaScript set it, so it will not wake.
  Atomics.store = ((array: Int32Array, index: number, value: number) => {
    if (index !== JS_SLEEPING || value !== 1 || !late) return store(array, index, value)
    late = false
    kernel.request({ tag: 1, op: OP_READ })
    return store(array, index, value)
  }) as typeof Atomics.store
  t.teardown(() => {
    Atomics.store = store
  })
  kernel.request({ tag: 0, op: OP_READ })
  queue.wake()
  await turn()
  t.deepEqual(kernel.results(), [512, 512])
  t.is(kernel.control[JS_SLEEPING], 1)
})

test('timers run between batches of a flood', async (t) => {
  let flood = true
  const { kernel, queue } = setup(() => {
    if (flood) kernel.request({ tag: 0, op: OP_READ })
    kernel.completions()
  })
  kernel.request({ tag: 0, op: OP_READ })
  queue.wake()
  await new Promise((resolve) => setTimeout(resolve, 5))
  flood = false
  await turn()
  await turn()
  t.is(kernel.control[JS_SLEEPING], 1)
})

test('refuse answers open requests and kicks', (t) => {
  const { kernel, queue, kicks } = setup(() => new Promise(() => {}))
  kernel.request({ tag: 0, op: OP_READ })
  queue.wake()
  kernel.control[NATIVE_SLEEPING] = 1
  queue.refuse(new Error('stopping'))
  t.deepEqual(kernel.results(), [-5])
  t.is(kicks(), 1)
})
