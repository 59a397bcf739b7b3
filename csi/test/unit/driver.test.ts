/** The kernel's ublk driver: loaded where it is not there yet, and only there. */
import { status } from '@grpc/grpc-js'
import test from 'ava'
import { CsiError } from '../../src/errors.ts'
import type { RunProgram } from '../../src/run-program.ts'
import { loadDriver } from '../../src/ublk/driver.ts'

const recorder = (ran: string[][], failure?: Error): RunProgram => {
  return async (program, args) => {
    ran.push([program, ...args])
    if (failure !== undefined) throw failure
    return { status: 0, stdout: Buffer.alloc(0), stderr: '' }
  }
}

test('a driver that is a module is loaded, and one that is there is left alone', async (t) => {
  const ran: string[][] = []
  await loadDriver({ control: '/nowhere/ublk-control', run: recorder(ran) })
  t.deepEqual(ran, [['modprobe', 'ublk_drv']])
  await loadDriver({ control: '/dev/null', run: recorder(ran) })
  t.is(ran.length, 1)
})

test('a kernel without the driver is told with what it needs', async (t) => {
  const cause = new Error('modprobe: FATAL: Module ublk_drv not found')
  const error = await t.throwsAsync(loadDriver({ control: '/nowhere/ublk-control', run: recorder([], cause) }), {
    instanceOf: CsiError,
    message: /ublk_drv is not there.*modules of the running kernel.*6\.0/,
  })
  t.is((error as CsiError).code, status.FAILED_PRECONDITION)
  t.is(error?.cause, cause)
})
