/** The launcher's side of a start, with a server that never comes to it. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import test, { type ExecutionContext } from 'ava'
import { reportOf } from '../src/lib/failure.ts'
import { launch } from '../src/lib/launch.ts'

/** Says nothing, and takes no device. */
const silent = () =>
  spawn(process.execPath, ['--eval', 'process.on("message", () => undefined)'], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] })

async function interruption(t: ExecutionContext, recovers: number | null) {
  const stop = new AbortController()
  const launching = launch({ target: { type: 'null' }, device: {} }, stop.signal, recovers, silent)
  stop.abort('SIGINT')
  return reportOf(await t.throwsAsync(launching))
}

test('a start that is interrupted leaves nothing behind', async (t) => {
  t.like(await interruption(t, null), { code: 'ERR_UBLK_INTERRUPTED', hint: 'Nothing is left behind.', deviceId: null })
})

/** Regression: it was told that nothing was left behind. */
test('a recovery that is interrupted says that the device waits still', async (t) => {
  const hint = 'Device 7 still waits for its server: `ublk recover 7` serves it.'
  t.like(await interruption(t, 7), { code: 'ERR_UBLK_INTERRUPTED', hint, deviceId: 7 })
})

/** Says `answer` when it is told to give up, and `accepted` at the end of its conversation. */
const answering = (answer: string) => () =>
  spawn(
    process.execPath,
    [
      '--eval',
      `process.on('message', ({ type }) => type === 'give-up' ? process.send(${answer}) : type === 'accepted' && process.exit(9))`,
    ],
    { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] },
  )

/** Regression: it was killed on the way, and old kernels take no second recovery then. */
test('a recovery that cannot be given up any more is left to its server', async (t) => {
  const server = answering("{ type: 'live', device: { id: 7 } }")()
  const ended = once(server, 'exit')
  const stop = new AbortController()
  const launching = launch({ target: { type: 'null' }, device: {} }, stop.signal, 7, () => server)
  stop.abort('SIGINT')
  const report = reportOf(await t.throwsAsync(launching))
  t.like(report, { code: 'ERR_UBLK_INTERRUPTED', hint: `Process ${server.pid} serves it.`, deviceId: 7 })
  t.regex(report.message, /device 7 was served already/)
  t.deepEqual(await ended, [9, null], 'it was accepted, and not killed')
})

test('a recovery that is given up in time leaves the device', async (t) => {
  const stop = new AbortController()
  const given = answering("{ type: 'failed', report: { code: 'ERR_UBLK_INTERRUPTED', message: 'x', exitCode: 1 } }")
  const launching = launch({ target: { type: 'null' }, device: {} }, stop.signal, 7, given)
  stop.abort('SIGINT')
  const began = performance.now()
  t.like(reportOf(await t.throwsAsync(launching)), { hint: 'Device 7 still waits for its server: `ublk recover 7` serves it.' })
  t.true(performance.now() - began < 1_500, 'it is not waited for')
})
