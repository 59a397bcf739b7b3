/** Readiness of a server that runs under systemd, or another program that speaks sd_notify. */
import { abortable, type CallOptions, checkSignal } from './abort.ts'
import { native } from './addon.ts'
import { abortError, invalidType, unwrap } from './errors.ts'

/**
 * Tells the service manager about this process, for units with `Type=notify`. Where nobody asked for it nothing happens.
 * Messages that must come in order must be awaited.
 * @param state lines such as `READY=1`, `STATUS=3 devices` or `STOPPING=1`; see sd_notify(3)
 * @param options.socket where to: a path, or `@` and the name of an abstract socket; default the environment's NOTIFY_SOCKET
 * @returns false when there is no socket to send to
 * @throws `ERR_UBLK_FILE` when nobody listens there
 */
export async function notifyServiceManager(state: string, options: CallOptions & { socket?: string } = {}): Promise<boolean> {
  if (typeof state !== 'string') throw invalidType('state', 'a string', state)
  const { socket = process.env.NOTIFY_SOCKET } = options
  if (socket === undefined || socket === '') return false
  if (typeof socket !== 'string') throw invalidType('socket', 'a string', socket)
  const what = 'telling the service manager'
  const signal = checkSignal(options.signal)
  if (signal?.aborted) throw abortError(signal, what)
  unwrap(await abortable(native().notify(socket, state), signal, what))
  return true
}
