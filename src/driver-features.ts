/**
 * The features of the driver: what this package does with each. The kernel's own names are in crates/ublk-uapi/src/feature.rs.
 *
 * Thread: any.
 */
import type { NativeFeature } from './native.ts'

/** One feature of the driver. */
export interface Feature {
  /** Its bit as a hexadecimal number, such as '0x1'. */
  bit: string
  /** Kernel name, such as 'UBLK_F_SUPPORT_ZERO_COPY'. */
  name: string
  /** Whether the running kernel has it. */
  here: boolean
  /** First release of Linux in which it works, such as '6.15'. Distributions carry some back. */
  since: string
  /** What takes it into use: an option or a call of this package. */
  use: string
}

/** What the running kernel's driver offers. */
export interface Features {
  /** Answer of GET_FEATURES as a hexadecimal number. */
  mask: string
  flags: Feature[]
}

/** By kernel name; a test holds it against the driver's list. */
export const FEATURE_USES: Readonly<Record<string, string>> = {
  UBLK_F_SUPPORT_ZERO_COPY: "dataPath 'zero-copy', and with 'auto-zero-copy' the fallback",
  UBLK_F_URING_CMD_COMP_IN_TASK: 'always: the driver forces it on',
  UBLK_F_NEED_GET_DATA: "dataPath 'get-data': the default of memory()",
  UBLK_F_USER_RECOVERY: "recovery 'requeue', 'reissue' and 'fail-io'",
  UBLK_F_USER_RECOVERY_REISSUE: "recovery 'reissue'",
  UBLK_F_UNPRIVILEGED_DEV: 'unprivileged',
  UBLK_F_CMD_IOCTL_ENCODE: 'always: asked for, and forced on; kernels before it are sent plain numbers',
  UBLK_F_USER_COPY: "dataPath 'user-copy': also what zoned() and integrity need",
  UBLK_F_ZONED: 'zoned()',
  UBLK_F_USER_RECOVERY_FAIL_IO: "recovery 'fail-io'",
  UBLK_F_UPDATE_SIZE: 'device.resize(), resizeDevice()',
  UBLK_F_AUTO_BUF_REG: "dataPath 'auto-zero-copy': the default of file()",
  UBLK_F_QUIESCE: 'device.quiesce(), quiesceDevice()',
  UBLK_F_PER_IO_DAEMON: 'perIo',
  UBLK_F_BUF_REG_OFF_DAEMON: 'none: the driver grants it unasked, and the ring that fetched a request serves it',
  UBLK_F_BATCH_IO: 'batch',
  UBLK_F_INTEGRITY: 'integrity',
  UBLK_F_SAFE_STOP_DEV: 'stopDevice(id, { safe: true })',
  UBLK_F_NO_AUTO_PART_SCAN: 'partitionScan: false',
  UBLK_F_SHMEM_ZC: "sharedMemory, device.shareMemory(), dataPath 'shmem'",
}

export function toFeature({ bit, name, here, since }: NativeFeature): Feature {
  return { bit, name, here, since, use: FEATURE_USES[name] ?? 'none' }
}
