/**
 * Makes and closes a device again and again in one process, with a backend on this thread and at times in a worker, and prints as JSON what the
 * process holds after a tenth of the cycles and at the end. Argument: cycles.
 */
import { readdirSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { createDevice, worker } from '../../src/index.ts'

const cycles = Number(process.argv[2])
const COLLECTION_CYCLES = 20
const inWorker = worker(new URL('./trap-backend.ts', import.meta.url), { options: { sync: true } })

async function cycle(number: number): Promise<void> {
  const backend = number % 10 === 0 ? inWorker : { size: 1 << 20, read: (buffer: Buffer) => void buffer.fill(0) }
  const device = await createDevice({ backend, depth: 4, maxIoBytes: 64 << 10 })
  await device.close()
}

async function held() {
  // Finalisers run between collections, and what they let go is freed by the next.
  for (let collection = 0; collection < 5; collection++) {
    globalThis.gc?.()
    await delay(50)
  }
  const { rss, arrayBuffers } = process.memoryUsage()
  return { fds: readdirSync('/proc/self/fd').length, threads: readdirSync('/proc/self/task').length, rss, arrayBuffers }
}

for (let number = 1; number <= cycles; number++) {
  await cycle(number)
  // V8 does not count shared memory: in a program that does nothing else, the buffers of closed devices would wait for a collection
  // for ever, and the allocator keeps what many of them had at once.
  if (number % COLLECTION_CYCLES === 0) globalThis.gc?.()
  if (number === Math.floor(cycles / 10) || number === cycles) process.stdout.write(`${JSON.stringify(await held())}\n`)
}
