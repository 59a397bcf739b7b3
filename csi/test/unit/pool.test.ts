import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { status } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { pino } from 'pino'
import { snapshotId, volumeId } from '../../src/ids.ts'
import { Mounts } from '../../src/node/mounts.ts'
import { type RunProgram, runProgram } from '../../src/run-program.ts'
import { Pool } from '../../src/ublk/pool.ts'
import type { Answer, Arguments, OperationName } from '../../src/ublk/protocol.ts'
import { MemoryDevices } from '../support/pool-devices.ts'

const MIB = 1 << 20
const NODE = 'node-1'
const ID = volumeId('one')

/** A pool with one volume that is attached, and `held` by somebody or not. */
async function attachedVolume(t: ExecutionContext, { run = runProgram, isHeld = false }: { run?: RunProgram; isHeld?: boolean } = {}) {
  const directory = mkdtempSync(join(tmpdir(), 'ublk-csi-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const devices = new MemoryDevices((path) => statSync(path).size)
  const healed = latch()
  const log = pino({}, { write: (line: string) => void (line.includes('"healed"') && healed.reach()) })
  const table = join(directory, 'mountinfo')
  writeFileSync(table, '')
  const pool = await Pool.open(directory, log, {
    mounts: Object.assign(new Mounts(run, table), { isHeld: async () => isHeld }),
    reflinks: async () => true,
    openDevices: async (onFailure) => {
      devices.onFailure = onFailure
      return devices
    },
  })
  const ask = <Name extends OperationName>(operation: Name, given: Arguments<Name>): Promise<Answer<Name>> =>
    pool.operations[operation](given)
  await ask('createVolume', { id: ID, bytes: 16 * MIB, source: null, overcommit: true })
  await ask('attach', { id: ID, nodeId: NODE })
  return { devices, ask, healed: healed.reached, table, image: join(directory, 'volumes', `${ID}.img`) }
}

/** The file system of /dev/null, whose number is 1:3, and its node bound to a file. */
const MOUNTED = '97 22 1:3 / /staging rw - ext4 /dev/null rw\n'
const BOUND = '98 22 0:5 /null /pods/a/block rw - devtmpfs udev rw\n'

/** A promise that is resolved from outside. */
function latch(): { reached: Promise<void>; reach: () => void } {
  let reach = (): void => {}
  const reached = new Promise<void>((resolve) => {
    reach = resolve
  })
  return { reached, reach }
}

/** Holds up what comes; `begun` resolves when something has come. */
function gate(): { pass: () => Promise<void>; begun: Promise<void>; open: () => void } {
  const [begun, opened] = [latch(), latch()]
  const pass = (): Promise<void> => {
    begun.reach()
    return opened.reached
  }
  return { pass, begun: begun.reached, open: opened.reach }
}

/** As a caller does it: again while something else works on the volume. */
async function untilDone<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call()
    } catch (error) {
      if ((error as { code?: status }).code !== status.ABORTED) throw error
      await delay(20)
    }
  }
}

test('a device that waits for its server is not removed, since its file system still writes to it', async (t) => {
  const { devices, ask } = await attachedVolume(t)
  devices.pause = async () => {
    throw new Error('its file is away')
  }
  devices.fail(ID)
  const error = await t.throwsAsync<Error & { code: status }>(ask('detach', { id: ID }))
  t.is(error?.code, status.UNAVAILABLE)
  t.is(devices.disks.size, 1)
  // Nor is it said to be not attached.
  await t.throwsAsync(ask('attached', { id: ID }), { message: /its file is away/ })
})

test('a device that waits for its server is served again when somebody asks for it, and can be removed', async (t) => {
  const { devices, ask } = await attachedVolume(t)
  devices.fail(ID)
  t.like(await ask('attached', { id: ID }), { path: '/dev/null', diskseq: 'seq-1' })
  t.true(devices.get(ID)?.isRunning)
  await ask('detach', { id: ID })
  t.is(devices.disks.size, 0)
  t.is(await ask('attached', { id: ID }), null)
})

test('a device that is gone for good is not attached, and its volume can be detached', async (t) => {
  const { devices, ask } = await attachedVolume(t)
  devices.fail(ID)
  devices.disks.clear()
  t.is(await ask('attached', { id: ID }), null)
  await ask('detach', { id: ID })
  await ask('deleteVolume', { id: ID })
  t.deepEqual(await ask('volumes', {}), [])
})

test('a volume that is expanded while its device is brought back keeps its new size', async (t) => {
  const { devices, ask, healed, image } = await attachedVolume(t)
  const { pass, begun, open } = gate()
  devices.pause = pass
  devices.fail(ID)
  await begun
  const expanded = untilDone(() => ask('expandVolume', { id: ID, bytes: 32 * MIB }))
  await delay(100)
  open()
  await Promise.all([healed, expanded])
  t.deepEqual([statSync(image).size, devices.get(ID)?.size, devices.get(ID)?.isRunning], [32 * MIB, 32 * MIB, true])
})

test('a volume that is detached while its device is made anew is detached', async (t) => {
  const { devices, ask, healed } = await attachedVolume(t)
  const { pass, begun, open } = gate()
  devices.pause = pass
  devices.fail(ID)
  devices.disks.clear()
  await begun
  const detached = untilDone(() => ask('detach', { id: ID }))
  await delay(100)
  open()
  await Promise.all([healed, detached])
  t.is(devices.disks.size, 0)
  t.is(await ask('attached', { id: ID }), null)
})

test('a snapshot whose device fails while it is synced lets go of the volume, so that the device comes back', async (t) => {
  const { pass, begun } = gate()
  // As the program does whose disk does not answer: it cannot even be killed.
  const run = (): Promise<never> => pass() as Promise<never>
  const { devices, ask, healed, table } = await attachedVolume(t, { run })
  writeFileSync(table, MOUNTED)
  const snapshot = ask('createSnapshot', { id: snapshotId('one'), sourceId: ID })
  await Promise.race([begun, snapshot])
  devices.fail(ID)
  const error = await t.throwsAsync<Error & { code: status }>(snapshot)
  t.is(error?.code, status.UNAVAILABLE)
  await healed
  t.true(devices.get(ID)?.isRunning)
  t.deepEqual(await ask('snapshots', {}), [])
})

test('a snapshot of a volume in use has what its file system held back', async (t) => {
  const done: string[] = []
  const run: RunProgram = async (program, args) => {
    done.push([program, ...args].join(' '))
    return { status: 0, stdout: Buffer.alloc(0), stderr: '' }
  }
  const { ask, table } = await attachedVolume(t, { run, isHeld: true })
  writeFileSync(table, MOUNTED)
  await ask('createSnapshot', { id: snapshotId('one'), sourceId: ID })
  t.deepEqual(done, ['sync -f /staging'])
})

test('a snapshot is refused where the file system is mounted out of sight, and would be taken without what it holds back', async (t) => {
  const { ask } = await attachedVolume(t, { isHeld: true })
  const error = await t.throwsAsync<Error & { code: status }>(ask('createSnapshot', { id: snapshotId('one'), sourceId: ID }))
  t.is(error?.code, status.FAILED_PRECONDITION)
  t.regex(error!.message, /mounted where the daemon does not see it/)
  t.deepEqual(await ask('snapshots', {}), [])
})

test('a raw disk is copied as it is, whoever holds it: it has no file system here', async (t) => {
  const { ask, table } = await attachedVolume(t, { isHeld: true })
  writeFileSync(table, BOUND)
  await ask('createSnapshot', { id: snapshotId('one'), sourceId: ID })
  t.like(await ask('snapshots', {}), [{ sourceId: ID }])
})
