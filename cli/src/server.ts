/**
 * Entry of the server process: one device, detached from any terminal. Started by `lib/launch.ts`, which see for the
 * conversation of the two. Ends with the device: on a stop signal, on `POST /stop`, or when another program removes it; and
 * without it when the device is quiesced.
 */

import { EXIT, interrupted, reportOf } from './lib/failure.ts'
import type { FromServer, ToServer } from './lib/launch.ts'
import { DeviceServer } from './lib/serve.ts'
import { boundStop, STOP_GRACE_MS, stopSignals } from './lib/signals.ts'
import { formatTarget, type ServeSpec } from './lib/target.ts'

if (process.send === undefined) {
  process.stderr.write('ublk: this file is started by `ublk add`\n')
  process.exitCode = EXIT.usage
} else {
  const stopping = stopSignals()
  const givingUp = new AbortController()
  boundStop(stopping.signal)
  // Before it is needed: a server that waits in reserve has it then.
  void import('ublk')
  process.on('message', (message: ToServer) => {
    if (message.type === 'serve') {
      // A device that is recovered is not the launcher's to take away.
      if (message.recovers === null) process.once('disconnect', () => stopping.abort('the end of its launcher'))
      void serve(message.spec, message.recovers, stopping.signal, givingUp.signal)
    }
    if (message.type === 'give-up') givingUp.abort('its launcher')
    if (message.type === 'accepted') process.removeAllListeners('disconnect')
  })
}

/** @param givingUp ends a recovery that the driver has not heard of */
async function serve(spec: ServeSpec, recovers: number | null, signal: AbortSignal, givingUp: AbortSignal): Promise<void> {
  try {
    const server =
      recovers === null
        ? await DeviceServer.start(spec, { signal, onCreated: (id) => tell({ type: 'created', id }) })
        : await DeviceServer.recover(recovers, spec, { signal: AbortSignal.any([signal, givingUp]) })
    process.title = `ublk: ${server.path} ${formatTarget(spec.target)}`
    const close = (): Promise<void> => server.close({ graceMs: STOP_GRACE_MS }).catch(() => undefined)
    if (signal.aborted) {
      // It came after the last look at it, and a listener would not hear of it any more.
      await close()
      throw interrupted(signal)
    }
    signal.addEventListener('abort', close)
    tell({ type: 'live', device: await server.describe() })
    const error = await server.ended
    process.exitCode = error === null ? EXIT.done : reportOf(error).exitCode
  } catch (error) {
    process.exitCode = reportOf(error).exitCode
    tell({ type: 'failed', report: reportOf(error) })
    if (process.connected) process.disconnect()
  }
}

function tell(message: FromServer): void {
  // Without a launcher there is nobody to tell; its end is handled where the channel closes.
  if (process.connected) process.send?.(message, undefined, {}, () => undefined)
}
