/**
 * Takes the devices along when the process ends: on `exit`, and on the signals that would end it without one.
 *
 * Thread: main only; the devices of a worker thread are taken by the addon's environment clean-up hooks. Nothing is installed while
 * there is no device.
 * Invariant: the handlers of signals are installed exactly while a tracked device wants them or a signal is being handled.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { isMainThread } from 'node:worker_threads'
import { native } from './addon.ts'
import { UblkError, unwrap } from './errors.ts'
import type { NativeDevice, Outcome } from './native.ts'

/** What is closed. */
interface Closable {
  close(options?: { signal?: AbortSignal }): Promise<void>
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
/** After a signal handlers have so long for what is open; then it is answered EIO. */
const HANDLERS_LIMIT_MS = 1000
/** And so long after the signal the process ends, whatever happens. */
const CLOSE_LIMIT_MS = 1900
const EXIT_LIMIT_MS = 2000
/** What the native last resort may take once the time for closing is spent; a STOP_DEV that is under way it waits for. */
const LAST_RESORT_MS = 100

/** Every device of this thread that is not closed, and whether signals close it. */
const devices = new Map<Closable, boolean>()
let signalled = false
let watchesSignals = false

/** From now on the end of the process takes `device` along. */
export function track(device: Closable, closeOnSignal: boolean): void {
  if (!isMainThread) return
  if (devices.size === 0) process.on('exit', onExit)
  devices.set(device, closeOnSignal)
  updateSignalHandlers()
}

/**
 * A device that is being added is taken along, too.
 * @param use makes what takes over; it must call `track`
 */
export async function takenAlong<T>(
  adding: Promise<Outcome<NativeDevice>>,
  closeOnSignal: boolean,
  use: (device: NativeDevice) => T,
): Promise<T> {
  let isClosed = false
  const pending: Closable = {
    async close() {
      isClosed = true
      await (await adding).value?.close()
    },
  }
  track(pending, closeOnSignal)
  try {
    const device = unwrap(await adding)
    if (isClosed) throw new UblkError('ERR_UBLK_INVALID_STATE', { message: 'the process was told to end while the device was added' })
    return use(device)
  } finally {
    untrack(pending)
  }
}

/** `device` is closed. */
export function untrack(device: Closable): void {
  if (!devices.delete(device)) return
  if (devices.size === 0) process.off('exit', onExit)
  updateSignalHandlers()
}

function updateSignalHandlers(): void {
  // While a signal is handled they stay, so that a second one is ours too.
  setSignalHandlers(signalled || [...devices.values()].includes(true))
}

function setSignalHandlers(wanted: boolean): void {
  if (wanted === watchesSignals) return
  watchesSignals = wanted
  for (const signal of SIGNALS) {
    if (wanted) process.on(signal, onSignal)
    else process.off(signal, onSignal)
  }
}

function onExit(): void {
  native().shutdown(EXIT_LIMIT_MS)
}

async function onSignal(signal: NodeJS.Signals): Promise<void> {
  const impatient = signalled
  signalled = true
  if (!impatient) await closeAll()
  // Whoever listens too decides when the process ends; its `exit` takes what is left.
  if (process.listeners(signal).some((listener) => listener !== onSignal)) {
    if (!impatient) {
      signalled = false
      updateSignalHandlers()
    }
    return
  }
  // Until the handlers are gone a third signal waits, too: it must not end the process while the kernel stops a device.
  native().shutdown(LAST_RESORT_MS)
  setSignalHandlers(false)
  signalled = false
  process.kill(process.pid, signal)
}

async function closeAll(): Promise<void> {
  const ours = [...devices].filter(([, closeOnSignal]) => closeOnSignal).map(([device]) => device)
  const closed = ours.map(async (device) => {
    try {
      await device.close({ signal: AbortSignal.timeout(HANDLERS_LIMIT_MS) })
    } catch {
      await device.close()
    }
  })
  await Promise.race([Promise.allSettled(closed), delay(CLOSE_LIMIT_MS)])
}
