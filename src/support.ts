/**
 * Says whether this machine can serve a device, and if not, why and what to do.
 *
 * Thread: any. Only looks; starts nothing. What only the kernel's answer tells shows in `createDevice`.
 */
import { accessSync, constants, existsSync, readFileSync } from 'node:fs'
import { native } from './addon.ts'
import type { UblkError, UblkErrorCode } from './errors.ts'

/** Answer of `isSupported`. */
export interface Support {
  supported: boolean
  /** Code that `createDevice` would fail with, or null. */
  code: UblkErrorCode | null
  /** Why not, as a sentence; empty when supported. */
  reason: string
  /** What to do next; empty when supported. */
  hint: string
}

const CONTROL_PATH = '/dev/ublk-control'
const IO_URING_SYSCTL = '/proc/sys/kernel/io_uring_disabled'
const IO_URING_GROUP_SYSCTL = '/proc/sys/kernel/io_uring_group'

/** Whether this process can serve ublk devices here. Never throws. */
export function isSupported(): Support {
  try {
    native()
  } catch (error) {
    const { code, message, hint } = error as UblkError
    return { supported: false, code, reason: message, hint }
  }
  return checkIoUring() ?? checkDriver() ?? { supported: true, code: null, reason: '', hint: '' }
}

/** Who asks for io_uring. @internal */
export interface IoUringUser {
  uid: number
  /** The effective group and the supplementary ones. */
  gids: number[]
}

/**
 * Whether the kernel lets `user` have io_uring. Stands in for CAP_SYS_ADMIN with the user root.
 * @param disabled of kernel.io_uring_disabled, '0' to '2'
 * @param group of kernel.io_uring_group, '-1' for none
 * @see io_uring_allowed in io_uring/io_uring.c
 * @internal
 */
export function mayUseIoUring(disabled: string, group: string, user: IoUringUser): boolean {
  if (disabled !== '1') return disabled === '0'
  return user.uid === 0 || user.gids.map(String).includes(group)
}

function checkIoUring(): Support | null {
  const value = readSysctl(IO_URING_SYSCTL, '0')
  const gids = [process.getegid?.() ?? -1, ...(process.getgroups?.() ?? [])].filter((gid) => gid >= 0)
  if (mayUseIoUring(value, readSysctl(IO_URING_GROUP_SYSCTL, '-1'), { uid: process.geteuid?.() ?? -1, gids })) return null
  return {
    supported: false,
    code: 'ERR_UBLK_IO_URING_DISABLED',
    reason: `io_uring is switched off here: kernel.io_uring_disabled is ${value}`,
    hint: 'Run sysctl kernel.io_uring_disabled=0 as root.',
  }
}

/** The text of a sysctl; of one that this kernel does not have, `missing`. */
function readSysctl(path: string, missing: string): string {
  return existsSync(path) ? readFileSync(path, 'latin1').trim() : missing
}

function checkDriver(): Support | null {
  if (!existsSync(CONTROL_PATH)) {
    return {
      supported: false,
      code: 'ERR_UBLK_DRIVER_MISSING',
      reason: `${CONTROL_PATH} is missing`,
      hint: 'Run modprobe ublk_drv as root (Linux 6.1 or later, built with CONFIG_BLK_DEV_UBLK).',
    }
  }
  try {
    accessSync(CONTROL_PATH, constants.R_OK | constants.W_OK)
    return null
  } catch {
    return {
      supported: false,
      code: 'ERR_UBLK_PERMISSION',
      reason: `no right to open ${CONTROL_PATH}`,
      hint: 'Run as root, or give this user read and write access to it with a udev rule.',
    }
  }
}
