/**
 * The checks of `ublk doctor`. Each looks at one thing, needs nothing of the others, and says how to mend what it finds.
 *
 * `fail`: a device cannot be served. `warn`: it can, and something is worth knowing.
 */

import { accessSync, constants, existsSync, mkdirSync, readFileSync, realpathSync, rmdirSync } from 'node:fs'
import { arch, release } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import type { DeviceInfo } from 'ublk'
import { EXIT, type ExitStatus, firstLine, reportOf } from './failure.ts'
import { StateDirectory } from './state.ts'

export interface Check {
  name: string
  status: 'ok' | 'warn' | 'fail'
  message: string
  /** How to mend it; null when there is nothing to do. */
  hint: string | null
  /** Whether a failure is one of rights: with them, this machine could. */
  permission: boolean
}

const CONTROL = '/dev/ublk-control'
const MODULE = '/sys/module/ublk_drv'
/** Buffers that a ring registers are locked memory; below this a device of ordinary depth does not fit. */
const MEMLOCK_ENOUGH_BYTES = 8 * 1024 * 1024

export async function examine(): Promise<Check[]> {
  const devices = await listedDevices()
  return [
    checkKernel(),
    await checkAddon(),
    checkDriver(),
    checkControl(),
    checkIoUring(),
    checkSeccomp(),
    await checkFeatures(),
    checkDeviceLimit(devices),
    checkLockedMemory(),
    checkStateDirectory(),
    checkOtherProgram(),
    ...checkLeftovers(devices),
  ]
}

/** 0 when nothing fails, 4 when only rights are missing, else 5. */
export function exitStatusOf(checks: Check[]): ExitStatus {
  const failed = checks.filter(({ status }) => status === 'fail')
  if (failed.length === 0) return EXIT.done
  return failed.every(({ permission }) => permission) ? EXIT.permission : EXIT.unsupported
}

function ok(name: string, message: string): Check {
  return { name, status: 'ok', message, hint: null, permission: false }
}

function warn(name: string, message: string, hint: string | null): Check {
  return { name, status: 'warn', message, hint, permission: false }
}

function fail(name: string, message: string, hint: string, permission = false): Check {
  return { name, status: 'fail', message, hint, permission }
}

function checkKernel(): Check {
  const [major = 0, minor = 0] = release().split('.').map(Number.parseFloat)
  const message = `${process.platform === 'linux' ? 'Linux' : process.platform} ${release()}`
  if (process.platform !== 'linux') return fail('kernel', `${message} has no ublk`, 'Use a Linux machine, or a virtual one.')
  if (major < 6 || (major === 6 && minor < 1)) return fail('kernel', `${message} is older than 6.1`, 'Boot Linux 6.1 or later.')
  return ok('kernel', message)
}

async function checkAddon(): Promise<Check> {
  const { isSupported } = await import('ublk')
  const support = isSupported()
  // What else it may find has checks of its own here.
  if (support.code === 'ERR_UBLK_UNSUPPORTED') return fail('addon', firstLine(support.reason), support.hint)
  return ok('addon', `the native part loads (Node.js ${process.versions.node}, ${arch()})`)
}

function checkDriver(): Check {
  if (existsSync(MODULE)) return ok('driver', 'ublk_drv is loaded')
  const modules = `/lib/modules/${release()}`
  const lists = ['modules.dep', 'modules.builtin'].map((name) => readText(join(modules, name)))
  if (lists.every((text) => text === null)) {
    return fail(
      'driver',
      `ublk_drv is not loaded, and there are no modules for this kernel in ${modules}`,
      'In a container: load ublk_drv on its host.',
    )
  }
  if (lists.some((text) => text?.includes('/ublk_drv.ko')))
    return fail('driver', 'ublk_drv is there and not loaded', 'Run `modprobe ublk_drv` as root.', true)
  return fail(
    'driver',
    'this kernel was built without ublk_drv',
    'Boot a kernel with CONFIG_BLK_DEV_UBLK: those of Debian and Ubuntu have it, but not every cloud kernel.',
  )
}

function checkControl(): Check {
  if (!existsSync(CONTROL)) return fail('control', `${CONTROL} is missing`, 'Load ublk_drv; in a container: pass the device in.')
  if (isAllowed(CONTROL, constants.R_OK | constants.W_OK)) return ok('control', `${CONTROL} can be opened`)
  return fail('control', `no right to open ${CONTROL}`, 'Run as root, or allow this user by a udev rule.', true)
}

function checkIoUring(): Check {
  const value = readText('/proc/sys/kernel/io_uring_disabled')?.trim() ?? '0'
  if (value === '0') return ok('io_uring', 'is on')
  if (value === '1' && process.geteuid?.() === 0) return ok('io_uring', 'is on for root (kernel.io_uring_disabled is 1)')
  const group = readText('/proc/sys/kernel/io_uring_group')?.trim() ?? '-1'
  const groups = [process.getegid?.(), ...(process.getgroups?.() ?? [])].map(String)
  if (value === '1' && groups.includes(group)) return ok('io_uring', `is on for group ${group} (kernel.io_uring_group)`)
  return fail('io_uring', `is off (kernel.io_uring_disabled is ${value})`, 'Run `sysctl kernel.io_uring_disabled=0` as root.')
}

function checkSeccomp(): Check {
  const mode = /^Seccomp:\s*(\d)/m.exec(readText('/proc/self/status') ?? '')?.[1] ?? '0'
  if (mode === '0') return ok('seccomp', 'no filter')
  return warn(
    'seccomp',
    'a filter is active; those of container runtimes forbid io_uring',
    'If io_uring fails: `docker run --security-opt seccomp=unconfined`, or a profile with io_uring.',
  )
}

async function checkFeatures(): Promise<Check> {
  const { features } = await import('ublk')
  try {
    const { mask, flags } = await features()
    return ok('features', `${flags.filter(({ here }) => here).length} of ${flags.length} known ones (mask ${mask})`)
  } catch (error) {
    const { code, message, hint, exitCode } = reportOf(error)
    // Before 6.5 nobody can list them; devices are made all the same, of what there is.
    if (code === 'ERR_UBLK_UNSUPPORTED') return ok('features', 'this kernel cannot list them, which needs Linux 6.5')
    return fail('features', `the driver cannot be asked: ${message}`, hint ?? 'Mend what is above first.', exitCode === EXIT.permission)
  }
}

function checkDeviceLimit(devices: DeviceInfo[] | null): Check {
  const limit = Number(readText(`${MODULE}/parameters/ublks_max`) ?? Number.NaN)
  if (Number.isNaN(limit)) return ok('limit', 'unknown without the driver')
  const count = devices?.length ?? 0
  if (count < limit) return ok('limit', `${count} devices; ublks_max is ${limit}`)
  return warn(
    'limit',
    `${count} devices; ublks_max is ${limit}`,
    `Kernels from 6.15 on count only devices of unprivileged users. Others: remove some, or raise ${MODULE}/parameters/ublks_max.`,
  )
}

function checkLockedMemory(): Check {
  const limit = /^Max locked memory\s+(\S+)/m.exec(readText('/proc/self/limits') ?? '')?.[1] ?? 'unlimited'
  if (limit === 'unlimited' || process.geteuid?.() === 0) return ok('memlock', 'no limit for this user')
  if (Number(limit) >= MEMLOCK_ENOUGH_BYTES) return ok('memlock', `${limit} bytes`)
  return warn(
    'memlock',
    `only ${limit} bytes may be locked; zero copy may fail`,
    'Raise the limit: `ulimit -l`, or memlock in /etc/security/limits.conf.',
  )
}

function checkStateDirectory(): Check {
  const { path } = StateDirectory.forUser()
  // The one that exists must be writable; one to be made needs a writable parent.
  let existing = path
  while (!existsSync(existing)) existing = dirname(existing)
  if (existing === path ? isAllowed(path, constants.W_OK) : canMake(path)) return ok('state', `${path} can be written`)
  return fail('state', `${path} cannot be written`, 'Run as root, or set XDG_RUNTIME_DIR to a directory of your own.', true)
}

/** Makes it: asking the parent's rights says nothing of read-only file systems. */
function canMake(path: string): boolean {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 })
    rmdirSync(path)
    return true
  } catch {
    return false
  }
}

/** Another project's C tool has the same name, /usr/sbin/ublk. */
function checkOtherProgram(): Check {
  const found = (process.env.PATH ?? '').split(delimiter).map((directory) => join(directory, 'ublk'))
  const own = join(import.meta.dirname, '..', '..')
  const other = found.find((path) => isAllowed(path, constants.X_OK) && realpathOrNull(path)?.startsWith(own) !== true)
  if (other === undefined) return ok('name', 'no other program named ublk on PATH')
  return warn('name', `${other} is another program named ublk`, 'This one is also installed as `ublkjs`.')
}

function checkLeftovers(devices: DeviceInfo[] | null): Check[] {
  const directory = StateDirectory.forUser()
  const orphans = (devices ?? []).filter(({ id, state }) => state !== 'live' && directory.readServed(id) === null)
  const records = directory.ids().filter((id) => directory.readServed(id) === null && devices?.some((device) => device.id === id) !== true)
  const found = [
    ...orphans.map(({ id, state }) => warn('leftover', `device ${id} is ${state} and has no server`, wayOut(id, state))),
    ...records.map((id) => warn('leftover', `${directory.statePath(id)} is of a server that is gone`, `\`ublk del ${id}\` removes it.`)),
  ]
  return found.length === 0 ? [ok('leftover', 'no devices without a server, no stale records')] : found
}

/** Those who use a device that waits for a server lose nothing when it is recovered. */
function wayOut(id: number, state: DeviceInfo['state']): string {
  const removal = `\`ublk del ${id}\` removes it`
  return state === 'dead' ? `${removal}.` : `\`ublk recover ${id}\` serves it again; ${removal}, and fails what waits.`
}

/** Null when they cannot be listed; why is what other checks find. */
async function listedDevices(): Promise<DeviceInfo[] | null> {
  const { listDevices } = await import('ublk')
  return listDevices().catch(() => null)
}

function isAllowed(path: string, mode: number): boolean {
  try {
    accessSync(path, mode)
    return true
  } catch {
    return false
  }
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return null
  }
}

function realpathOrNull(path: string): string | null {
  try {
    return realpathSync(path)
  } catch {
    return null
  }
}
