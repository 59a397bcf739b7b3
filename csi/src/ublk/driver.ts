/**
 * The kernel's ublk driver, which most distributions have as a module that nobody loads by itself.
 */
import { access } from 'node:fs/promises'
import { failedPrecondition } from '../errors.ts'
import { type RunProgram, runProgram } from '../run-program.ts'

export interface DriverOptions {
  /** The file that the driver makes when it is there. */
  control?: string
  run?: RunProgram
}

/** @throws {CsiError} FAILED_PRECONDITION when this kernel has none */
export async function loadDriver({ control = '/dev/ublk-control', run = runProgram }: DriverOptions = {}): Promise<void> {
  await access(control).catch(async () => {
    await run('modprobe', ['ublk_drv']).catch((cause: Error) => {
      throw failedPrecondition('the kernel module ublk_drv is not there; install the modules of the running kernel, Linux 6.0 or later', {
        cause,
      })
    })
  })
}
