/** A server in Node.js for the crash matrix: node-server.ts IMAGE CELL. Says `device ID`, and ends by signals alone. */
import process from 'node:process'
import { createDevice, type DataPath, fault, file, type QueueOptions } from '../../src/index.ts'
import { SHARED_MEMORY } from '../matrix/table.ts'
import type { Cell } from './table.ts'

const [image = '', text = '{}'] = process.argv.slice(2)
const { mode, recovery, load } = JSON.parse(text) as Cell
const target = file(image)
const backend = load === 'flush' ? fault(target, { delayMs: 10 }) : target
const ways: Record<string, QueueOptions> = { batch: { batch: true }, shmem: { sharedMemory: SHARED_MEMORY } }
const device = await createDevice({ backend, recovery, ...(ways[mode] ?? { dataPath: mode as DataPath }), depth: 16, queues: 2 })
console.log(`device ${device.id}`)
setInterval(() => {}, 60_000)
