/**
 * Data through backends of JavaScript under a node that refuses external buffers, as Electron does. Runs in the VM under each caged node:
 * see test/caged/run.
 */
import { createRequire } from 'node:module'
import path from 'node:path'
import process from 'node:process'
import test from 'ava'
import { type DeviceOptions, worker } from '../../src/index.ts'
import { fioVerify, memoryBackend, run, withDevice } from '../device/support.ts'

const MIB = 1 << 20
const DEVICE_BYTES = 16 * MIB
const NO_EXTERNAL_BUFFERS_ALLOWED = 22

const cage = path.resolve(import.meta.dirname, '../../target/caged')
const probe = path.join(cage, 'probe.node')
const [major = ''] = process.versions.node.split('.')

test.serial('the cage is closed: this node refuses every kind of external buffer', (t) => {
  const refused = NO_EXTERNAL_BUFFERS_ALLOWED
  t.deepEqual({ ...createRequire(import.meta.url)(probe) }, { buffer: refused, arrayBuffer: refused, sharedArrayBuffer: refused })
})

test.serial('outside the cage the same addon gets its buffers', async (t) => {
  const node = path.resolve(import.meta.dirname, '../../scripts/node')
  const program = `process.stdout.write(JSON.stringify(require(${JSON.stringify(probe)})))`
  const answer = await run('env', '-u', 'LD_PRELOAD', node, major, '-e', program)
  t.deepEqual(JSON.parse(answer), { buffer: 0, arrayBuffer: 0, sharedArrayBuffer: 0 })
})

const sharedMemory = (options: object) =>
  worker(new URL('../device/shared-memory-backend.ts', import.meta.url), {
    options: { store: new SharedArrayBuffer(DEVICE_BYTES), ...options },
  })

const backends: Record<string, () => DeviceOptions['backend']> = {
  main: () => memoryBackend(DEVICE_BYTES),
  'sync worker': () => sharedMemory({ sync: true }),
  'async worker': () => sharedMemory({ later: true }),
}

for (const [name, makeBackend] of Object.entries(backends)) {
  test.serial(`${name} backend in the cage: every byte comes back, and the device starts again`, async (t) => {
    await withDevice({ backend: makeBackend(), depth: 16 }, async (device) => {
      await fioVerify(device.path, { blockSize: '64k', sizeBytes: 4 * MIB })
      await device.stop()
      await device.start()
      await fioVerify(device.path, { blockSize: '4k', sizeBytes: MIB })
      t.true(Object.values(device.stats().operations).every(({ errors }) => errors === 0))
    })
  })
}
