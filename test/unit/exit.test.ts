/** When the handlers of signals are installed. The test listens too, so that no signal ends it; what is closed is a stand-in. */
import test, { type ExecutionContext } from 'ava'
import { takenAlong, track, untrack } from '../../src/exit.ts'
import type { NativeDevice, Outcome } from '../../src/native.ts'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
const counts = (): number[] => [...SIGNALS, 'exit'].map((event) => process.listenerCount(event))

interface Fake {
  close(): Promise<void>
  closings: number
}

/** Closes as a device does: it is tracked no more. */
function closable(): Fake {
  const device: Fake = {
    closings: 0,
    async close() {
      device.closings++
      untrack(device)
    },
  }
  return device
}

/** One whose close never comes through: after a signal it stays. */
function stuck(): Fake {
  const device: Fake = {
    closings: 0,
    close() {
      device.closings++
      return new Promise(() => {})
    },
  }
  return device
}

/** The counts beyond those at the start: [1, 1, 1, 1] is one handler for each signal and one for the exit. */
function counting(t: ExecutionContext): () => number[] {
  const survive = (): void => {}
  for (const signal of SIGNALS) process.on(signal, survive)
  t.teardown(() => {
    for (const signal of SIGNALS) process.off(signal, survive)
  })
  const before = counts()
  return () => counts().map((count, index) => count - (before[index] as number))
}

/** Waits for a state that follows a signal. */
async function until(holds: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000
  while (!holds()) {
    if (Date.now() > deadline) throw new Error(`not within 10 s: ${holds}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

test.serial('handlers are there while a device wants them, however many there are', (t) => {
  const installed = counting(t)
  const [first, second, unwilling] = [closable(), closable(), closable()]
  track(unwilling, false)
  t.deepEqual(installed(), [0, 0, 0, 1])
  track(first, true)
  track(second, true)
  t.deepEqual(installed(), [1, 1, 1, 1])
  untrack(first)
  t.deepEqual(installed(), [1, 1, 1, 1])
  untrack(second)
  untrack(second)
  t.deepEqual(installed(), [0, 0, 0, 1])
  untrack(unwilling)
  t.deepEqual(installed(), [0, 0, 0, 0])
})

test.serial('a device that outlives a signal keeps the handlers, and so does the next one', async (t) => {
  const installed = counting(t)
  const survivor = stuck()
  track(survivor, true)
  // While the first signal is handled the others change nothing; the one after that asks the device again.
  await until(() => {
    process.emit('SIGTERM', 'SIGTERM')
    return survivor.closings > 1
  })
  t.deepEqual(installed(), [1, 1, 1, 1])
  const next = closable()
  track(next, true)
  t.deepEqual(installed(), [1, 1, 1, 1])
  untrack(survivor)
  t.deepEqual(installed(), [1, 1, 1, 1])
  untrack(next)
  await until(() => installed()[0] === 0)
  t.deepEqual(installed(), [0, 0, 0, 0])
})

test.serial('a signal that the program survives closes what is there, and a later device is watched again', async (t) => {
  const installed = counting(t)
  const [first, unwilling] = [closable(), closable()]
  track(first, true)
  track(unwilling, false)
  process.emit('SIGINT', 'SIGINT')
  await until(() => installed()[0] === 0)
  t.deepEqual([first.closings, unwilling.closings], [1, 0])
  t.deepEqual(installed(), [0, 0, 0, 1])
  const second = closable()
  track(second, true)
  t.deepEqual(installed(), [1, 1, 1, 1])
  process.emit('SIGINT', 'SIGINT')
  await until(() => second.closings === 1 && installed()[0] === 0)
  untrack(unwilling)
  t.deepEqual(installed(), [0, 0, 0, 0])
})

test.serial('a device that is being added is watched until it is there, or has failed', async (t) => {
  const installed = counting(t)
  const adding = new Promise<Outcome<NativeDevice>>((resolve) => setImmediate(() => resolve({ value: {} as NativeDevice, error: null })))
  const taking = takenAlong(adding, true, () => {
    const device = closable()
    track(device, true)
    return device
  })
  t.deepEqual(installed(), [1, 1, 1, 1])
  const device = await taking
  t.deepEqual(installed(), [1, 1, 1, 1])
  untrack(device)
  t.deepEqual(installed(), [0, 0, 0, 0])

  const failing = takenAlong(Promise.reject(new Error('no device')), true, () => device)
  t.deepEqual(installed(), [1, 1, 1, 1])
  await t.throwsAsync(failing, { message: 'no device' })
  t.deepEqual(installed(), [0, 0, 0, 0])
})
