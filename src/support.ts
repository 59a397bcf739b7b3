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

function checkIoUring(): Support | null {
  // 0: everybody may; 1: processes with CAP_SYS_ADMIN or in the group of io_uring_group; 2: nobody.
  const value = existsSync(IO_URING_SYSCTL) ? readFileSync(IO_URING_SYSCTL, 'latin1').trim() : '0'
  if (value === '0' || (value === '1' && process.geteuid?.() === 0)) return null
  return {
    supported: false,
    code: 'ERR_UBLK_IO_URING_DISABLED',
    reason: `io_uring is switched off here: kernel.io_uring_disabled is ${value}`,
    hint: 'Run sysctl kernel.io_uring_disabled=0 as root.',
  }
}

function checkDriver(): Support | null {
  if (!existsSync(CONTROL_PATH)) {
    return {
      supported: false,
      code: 'ERR_UBLK_DRIVER_MISSING',
      reason: `${CONTROL_PATH} is missing`,
      hint: 'Run modprobe ublk_drv as root (Linux 6.5 or later, built with CONFIG_BLK_DEV_UBLK).',
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
