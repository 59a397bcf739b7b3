/** The launcher's side of a start, with a server that never comes to it. */

import { spawn } from 'node:child_process'
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
