import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { status } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { pino } from 'pino'
import { volumeId } from '../../src/ids.ts'
import { Pool } from '../../src/ublk/pool.ts'
import type { Answer, Arguments, OperationName } from '../../src/ublk/protocol.ts'
import { MemoryDevices } from '../support/pool-devices.ts'

const MIB = 1 << 20
const NODE = 'node-1'
const ID = volumeId('one')

/** A pool with one volume that is attached. */
async function attachedVolume(t: ExecutionContext) {
  const directory = mkdtempSync(join(tmpdir(), 'ublk-csi-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const devices = new MemoryDevices((path) => statSync(path).size)
  const open = (): Promise<Pool> =>
    Pool.open(directory, pino({ level: 'silent' }), async (onFailure) => {
      devices.onFailure = onFailure
      return devices
    })
  const pool = await open()
  const ask = <Name extends OperationName>(operation: Name, given: Arguments<Name>): Promise<Answer<Name>> =>
    pool.operations[operation](given, new AbortController().signal)
  await ask('createVolume', { id: ID, bytes: 16 * MIB, source: null, overcommit: true })
  await ask('attach', { id: ID, nodeId: NODE })
  return { devices, ask }
}

test('a device that waits for its server is not removed, since its file system still writes to it', async (t) => {
  const { devices, ask } = await attachedVolume(t)
  devices.beforeRecovery = async () => {
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
