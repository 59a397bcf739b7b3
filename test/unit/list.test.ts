/** What the calls about all devices do with a signal, with and without a driver on this machine. */
import { getEventListeners } from 'node:events'
import test from 'ava'
import type { CallOptions } from '../../src/index.ts'
import { deleteDevice, deviceInfo, features, listDevices, queueAffinity, stopDevice } from '../../src/index.ts'

/** Never made: the kernel gives out the lowest free id. */
const ID = 2 ** 20 - 1
const calls: Record<string, (options: CallOptions) => Promise<unknown>> = {
  listDevices,
  features,
  deviceInfo: (options) => deviceInfo(ID, options),
  queueAffinity: (options) => queueAffinity(ID, 0, options),
  stopDevice: (options) => stopDevice(ID, options),
  deleteDevice: (options) => deleteDevice(ID, options),
}

for (const [name, call] of Object.entries(calls)) {
  test(`${name} rejects with an AbortError before and while it waits, and leaves no listener`, async (t) => {
    const aborted = { name: 'AbortError', code: 'ABORT_ERR', message: /was aborted$/ }
    t.is((await t.throwsAsync(call({ signal: AbortSignal.abort('enough') }), aborted))?.cause, 'enough')
    const controller = new AbortController()
    const waiting = call({ signal: controller.signal })
    t.is(getEventListeners(controller.signal, 'abort').length, 1)
    controller.abort('late')
    t.is((await t.throwsAsync(waiting, aborted))?.cause, 'late')
    // An answer of either kind, but not an abort.
    const idle = new AbortController()
    const answer = await call({ signal: idle.signal }).catch((error: Error) => error)
    t.not((answer as Error)?.name, 'AbortError')
    t.is(getEventListeners(idle.signal, 'abort').length, 0)
    await t.throwsAsync(call({ signal: {} as AbortSignal }), { code: 'ERR_INVALID_ARG_TYPE', message: /^signal must be an AbortSignal/ })
  })
}
