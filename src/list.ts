/**
 * The ublk devices of this machine, whichever process serves them, and what the driver can do.
 *
 * Thread: any; the commands run on a native thread.
 */
import { abortable, type CallOptions, checkSignal } from './abort.ts'
import { native } from './addon.ts'
import { type Features, toFeature } from './driver-features.ts'
import { abortError, invalidType, outOfRange, unwrap } from './errors.ts'
import { type DeviceInfo, toDeviceInfo } from './info.ts'
import type { NativeBinding, Outcome } from './native.ts'
import { checkDeviceSize, parseSize, type Size } from './size.ts'

/** Largest N of /dev/ublkbN (minor numbers are 20 bits). */
export const MAX_DEVICE_ID: number = 2 ** 20 - 1

export function checkId(id: number, name = 'id'): number {
  if (typeof id !== 'number') throw invalidType(name, 'a number', id)
  if (!Number.isInteger(id) || id < 0 || id > MAX_DEVICE_ID) throw outOfRange(name, `a whole number from 0 to ${MAX_DEVICE_ID}`, id)
  return id
}

const DEFAULT_QUIESCE_MS = 30_000

/** Milliseconds for a server to let go. */
export function checkTimeout(value: number = DEFAULT_QUIESCE_MS): number {
  if (typeof value !== 'number') throw invalidType('timeoutMs', 'a number', value)
  if (!(value >= 1 && value < 2 ** 31)) throw outOfRange('timeoutMs', 'a number of milliseconds from 1 to 2147483647', value)
  return value
}

/** Every ublk device of this machine, lowest id first. */
export async function listDevices(options: CallOptions = {}): Promise<DeviceInfo[]> {
  return (await command('listing the devices', options, (driver) => driver.listDevices())).map(toDeviceInfo)
}

/** One device by its number, of any process. Rejects with `ERR_UBLK_NO_DEVICE` if there is none. */
export async function deviceInfo(id: number, options: CallOptions = {}): Promise<DeviceInfo> {
  checkId(id)
  return toDeviceInfo(await command(`asking for device ${id}`, options, (driver) => driver.deviceInfo(id)))
}

/** CPUs whose requests go to one queue of a device. */
export async function queueAffinity(id: number, queue: number, options: CallOptions = {}): Promise<number[]> {
  checkId(id)
  checkId(queue, 'queue')
  return command(`asking for queue ${queue} of device ${id}`, options, (driver) => driver.queueAffinity(id, queue))
}

/**
 * Stops a device of any process: the block device goes, the record stays (state `dead`). An abort ends the wait, and stopping goes on.
 * @param options.safe true refuses with `ERR_UBLK_BUSY` while somebody has it open or mounted (Linux 7.0 and later). Default false.
 */
export async function stopDevice(id: number, options: CallOptions & { safe?: boolean } = {}): Promise<void> {
  checkId(id)
  await command(`stopping device ${id}`, options, (driver) => driver.stopDevice(id, options.safe ?? false))
}

/**
 * Has the server of a device let go of it, whichever process that is: it answers what it has, new requests wait, and the device is
 * `quiesced` for another server to take over (`recoverDevice`), or `fail_io` with the recovery 'fail-io'. Needs Linux 6.16 and a device
 * made with `recovery`. For a device that waits already nothing happens. An abort ends the wait, and quiescing goes on.
 * @param options.timeoutMs milliseconds until it rejects with `ERR_UBLK_TIMEOUT`, default 30000; requests go on waiting then, until the
 *   server lets go or has ended and the device is recovered
 */
export async function quiesceDevice(id: number, options: CallOptions & { timeoutMs?: number } = {}): Promise<void> {
  checkId(id)
  const limitMs = checkTimeout(options.timeoutMs)
  await command(`quiescing device ${id}`, options, (driver) => driver.quiesceDevice(id, limitMs))
}

/**
 * Changes the size of a device that is in use, of any process (Linux 6.16). Its server is not asked: it must be able to serve that much.
 * @param size a multiple of the logical block size
 */
export async function resizeDevice(id: number, size: Size, options: CallOptions = {}): Promise<void> {
  const { logicalBlockSize } = await deviceInfo(id, options)
  const sizeBytes = checkDeviceSize(parseSize(size), logicalBlockSize)
  await command(`resizing device ${id}`, options, (driver) => driver.resizeDevice(id, sizeBytes))
}

/**
 * Stops and removes a device of any process. Resolves when it is gone; while somebody has it open, after two seconds with the device `dead`, and
 * the driver removes it when the last user lets go. An abort ends the wait, and removing goes on.
 * @param options.wait false returns before the last reference is gone (DEL_DEV_ASYNC). Default true.
 */
export async function deleteDevice(id: number, options: CallOptions & { wait?: boolean } = {}): Promise<void> {
  checkId(id)
  await command(`deleting device ${id}`, options, (driver) => driver.deleteDevice(id, options.wait ?? true))
}

/** Features of the driver that is loaded. */
export async function features(options: CallOptions = {}): Promise<Features> {
  const { mask, flags } = await command('asking for the features', options, (driver) => driver.features())
  return { mask, flags: flags.map(toFeature) }
}

/** One command of the driver. A signal that has aborted before keeps it from being sent; later it only ends the wait for the answer. */
async function command<T>(what: string, options: CallOptions, send: (driver: NativeBinding) => Promise<Outcome<T>>): Promise<T> {
  const signal = checkSignal(options.signal)
  if (signal?.aborted) throw abortError(signal, what)
  return unwrap(await abortable(send(native()), signal, what))
}
