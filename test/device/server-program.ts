/**
 * A server to be killed by life.test.ts: makes a device, brings it to a stage, prints `ready ID`, and serves.
 * Arguments: backend (mem, main, worker, slow), stage (created, live, loaded).
 */
import process from 'node:process'
import { setTimeout as delay } from 'node:timers/promises'
import { Device, type DeviceOptions, memory, worker } from '../../src/index.ts'
import { memoryBackend } from './support.ts'

const MIB = 1 << 20
const backends: Record<string, () => DeviceOptions['backend']> = {
  mem: () => memory({ size: 256 * MIB }),
  main: () => memoryBackend(256 * MIB),
  worker: () => worker(new URL('./shared-memory-backend.ts', import.meta.url), { options: { store: new SharedArrayBuffer(256 * MIB) } }),
  // Answers so late that requests are open when the server dies.
  slow: () => ({ ...memoryBackend(256 * MIB), read: () => delay(150) }),
}

const [name = '', stage = ''] = process.argv.slice(2)
const makeBackend = backends[name]
if (makeBackend === undefined) throw new Error(`no backend ${name}`)
const device = await Device.create({ backend: makeBackend() })
if (stage !== 'created') await device.start()
process.stdout.write(`ready ${device.id}\n`)
setInterval(() => {}, 60_000)
