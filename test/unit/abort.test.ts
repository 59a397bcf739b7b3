import { getEventListeners } from 'node:events'
import test from 'ava'
import { abortable, checkSignal, deferred } from '../../src/abort.ts'

test('without an abort the promise is what it is, and no listener stays', async (t) => {
  const { signal } = new AbortController()
  t.is(await abortable(Promise.resolve(5), signal, 'x'), 5)
  await t.throwsAsync(abortable(Promise.reject(new Error('no')), signal, 'x'), { message: 'no' })
  t.is(await abortable(Promise.resolve(5), null, 'x'), 5)
  t.is(getEventListeners(signal, 'abort').length, 0)
})

test('an abort rejects at once with the reason as cause, and calls back', async (t) => {
  for (const before of [true, false]) {
    const controller = new AbortController()
    if (before) controller.abort('enough')
    const reasons: Error[] = []
    const waiting = abortable(new Promise(() => {}), controller.signal, 'waiting', (reason) => reasons.push(reason))
    if (!before) controller.abort('enough')
    const error = await t.throwsAsync(waiting, { name: 'AbortError', code: 'ABORT_ERR', message: 'waiting was aborted' })
    t.is(error?.cause, 'enough')
    t.deepEqual(reasons, [error!])
  }
})

test('a deferred that nobody waits for may reject', async (t) => {
  const { promise, reject } = deferred<void>()
  reject(new Error('no'))
  await new Promise(setImmediate)
  await t.throwsAsync(promise, { message: 'no' })
  t.is(checkSignal(undefined), null)
  t.throws(() => checkSignal('x' as never), { code: 'ERR_INVALID_ARG_TYPE' })
})
