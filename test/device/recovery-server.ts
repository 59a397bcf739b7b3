/** A server process of its own: makes a device, or recovers device `id`, and serves it until it is told or killed. */
import { createDevice, fault, file, type Recovery, recoverDevice, worker } from '../../src/index.ts'
import fileBackend from './recovery-backend.ts'

export interface Order {
  where: 'file' | 'slow file' | 'main' | 'worker'
  path: string
  size: number
  recovery: Recovery
  queues: number
  /** Recover this one. */
  id?: number
}

const { where, path, size, recovery, queues, id } = JSON.parse(process.argv[2] as string) as Order
const backend = {
  file: () => file(path),
  'slow file': () => fault(file(path), { delayMs: 10 }),
  main: () => fileBackend({ path, size }),
  worker: () => worker(new URL('./recovery-backend.ts', import.meta.url), { options: { path, size } }),
}[where]()
const device = id === undefined ? await createDevice({ backend, size, recovery, queues }) : await recoverDevice(id, { backend })
console.log(`ready ${device.id}`)
