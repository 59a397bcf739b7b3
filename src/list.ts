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

/** Largest N of /dev/ublkbN (minor numbers are 20 bits). */
export const MAX_DEVICE_ID: number = 2 ** 20 - 1

export function checkId(id: number, name = 'id'): number {
  if (typeof id !== 'number') throw invalidType(name, 'a number', id)
  if (!Number.isInteger(id) || id < 0 || id > MAX_DEVICE_ID) throw outOfRange(name, `a whole number from 0 to ${MAX_DEVICE_ID}`, id)
  return id
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
 * Stops and removes a device of any process. An abort ends the wait, and removing goes on.
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
