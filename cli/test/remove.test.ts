/** Removing and quiescing a device whose server ends meanwhile: with a record and a socket as those of a server, and without a driver. */

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { registerHooks } from 'node:module'
import { createServer } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import { reportOf } from '../src/lib/failure.ts'
import { isRunning, ownIdentity, type ProcessIdentity, startTicksOf } from '../src/lib/process.ts'
import { StateDirectory } from '../src/lib/state.ts'
import { temporaryDirectory } from './program.ts'

/** What the driver is asked to do with a device. */
interface Driver {
  deleteDevice(id: number): Promise<void>
  quiesceDevice(id: number): Promise<void>
}
const here = globalThis as unknown as { driver: Driver }
const DRIVER = `
  export const deleteDevice = (id) => globalThis.driver.deleteDevice(id)
  export const quiesceDevice = (id) => globalThis.driver.quiesceDevice(id)
`
registerHooks({
  resolve: (specifier, context, next) =>
    specifier === 'ublk'
      ? { url: `data:text/javascript,${encodeURIComponent(DRIVER)}`, format: 'module', shortCircuit: true }
      : next(specifier, context),
})
const { quiesce } = await import('../src/lib/hand-over.ts')
const { launch } = await import('../src/lib/launch.ts')
const { removeDevice } = await import('../src/lib/remove.ts')

const noDevice = async (): Promise<void> => Promise.reject(Object.assign(new Error('no such device'), { code: 'ERR_UBLK_NO_DEVICE' }))

function withDriver(driver: Partial<Driver>): void {
  const stranger = async (): Promise<void> => Promise.reject(new Error('nobody asks for that'))
  here.driver = { deleteDevice: stranger, quiesceDevice: stranger, ...driver }
}

function directoryFor(t: ExecutionContext): StateDirectory {
  const { path, remove } = temporaryDirectory()
  t.teardown(remove)
  const directory = new StateDirectory(path)
  StateDirectory.forUser = () => directory
  return directory
}

function record(directory: StateDirectory, { pid, startTicks }: ProcessIdentity): void {
  directory.write({ version: '0', id: 0, pid, startTicks, startedAt: '', spec: { target: { type: 'null' }, device: {} } })
}

async function startProcess(t: ExecutionContext): Promise<{ child: ChildProcess; identity: ProcessIdentity }> {
  const child = spawn('sleep', ['60'])
  t.teardown(() => void child.kill('SIGKILL'))
  await once(child, 'spawn')
  const pid = child.pid as number
  return { child, identity: { pid, startTicks: startTicksOf(pid) as number } }
}

/** Device 0 has a server that hangs up when it is asked, and ends a little later. */
async function withDyingServer(t: ExecutionContext): Promise<{ directory: StateDirectory; identity: ProcessIdentity }> {
  const directory = directoryFor(t)
  const { child, identity } = await startProcess(t)
  record(directory, identity)
  const server = createServer((socket) => {
    socket
      .on('error', () => undefined)
      .once('data', () => {
        socket.destroy()
        setTimeout(() => child.kill('SIGKILL'), 100)
      })
  })
  await new Promise<void>((resolve) => server.listen(directory.socketPath(0), resolve))
  t.teardown(() => server.close())
  return { directory, identity }
}

/** Regression: `socket hang up`. */
test.serial('a server that has removed its device and ends before it has said so is no error', async (t) => {
  const { directory, identity } = await withDyingServer(t)
  withDriver({
    deleteDevice: () => {
      t.false(isRunning(identity), 'its end was waited for')
      return noDevice()
    },
  })
  await t.notThrowsAsync(removeDevice(0, { wait: true }))
  t.deepEqual(directory.ids(), [])
})

test.serial('a device whose server ends before it has removed it is removed without it', async (t) => {
  const { directory } = await withDyingServer(t)
  const deleted: number[] = []
  withDriver({ deleteDevice: async (id) => void deleted.push(id) })
  await removeDevice(0, { wait: true })
  t.deepEqual(deleted, [0])
  t.deepEqual(directory.ids(), [])
})

test.serial('a device that is not there is an error, and its record goes', async (t) => {
  const directory = directoryFor(t)
  withDriver({ deleteDevice: noDevice })
  t.like(reportOf(await t.throwsAsync(removeDevice(0, { wait: true }))), { code: 'ERR_UBLK_NO_DEVICE', message: 'device 0 does not exist' })
  record(directory, { pid: process.pid, startTicks: 1 })
  t.regex(reportOf(await t.throwsAsync(removeDevice(0, { wait: true }))).message, /the record that its dead server left is removed/)
  t.deepEqual(directory.ids(), [])
})

/** Regression: `socket hang up`. */
test.serial('a server that ends while it is quiesced leaves the rest to the driver', async (t) => {
  const { directory, identity } = await withDyingServer(t)
  const quiesced: number[] = []
  withDriver({
    quiesceDevice: async (id) => {
      t.false(isRunning(identity), 'its end was waited for')
      quiesced.push(id)
    },
  })
  await quiesce(0, 5_000)
  t.deepEqual(quiesced, [0])
  t.deepEqual(directory.ids(), [0])
})

/** Regression: the record and the socket of the new device were removed, and nobody could ask its server any more. */
test.serial('a device that takes the number as soon as it is free keeps its record', async (t) => {
  const directory = directoryFor(t)
  for (const former of [null, { pid: process.pid, startTicks: 1 }]) {
    if (former !== null) record(directory, former)
    withDriver({
      deleteDevice: async () => {
        directory.remove(0)
        record(directory, ownIdentity())
      },
    })
    await removeDevice(0, { wait: true })
    t.is(directory.readServed(0)?.pid, process.pid)
    directory.remove(0)
  }
})

test.serial('also when it was a start that failed', async (t) => {
  const directory = directoryFor(t)
  withDriver({ deleteDevice: async () => record(directory, ownIdentity()) })
  const dies = () =>
    spawn(process.execPath, ['--eval', "process.send({ type: 'created', id: 0 }, () => process.kill(process.pid, 'SIGKILL'))"], {
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    })
  await t.throwsAsync(launch({ target: { type: 'null' }, device: {} }, new AbortController().signal, null, dies))
  t.is(directory.readServed(0)?.pid, process.pid)
})
