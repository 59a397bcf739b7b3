/**
 * Serves one device of the library for a measurement: prints its path when it is live, answers each line on standard input with a line of
 * counters, and removes the device when standard input ends.
 *
 *   node bench/serve.ts null|mem|mem-zero-copy|js-worker-sync|js-worker-async|js-main-sync SIZE [OPTIONS]
 *   node bench/serve.ts file|file-direct|file-copy PATH [OPTIONS]
 *
 * OPTIONS of the device may follow, as JSON.
 */
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { createDevice, type DeviceOptions, file, memory, nullTarget, worker } from 'ublk'
import memoryBackend from './backends/memory.ts'

/** As every contestant has it: one queue of 128. */
const SHAPE = { queues: 1, depth: 128 }

function deviceOptions(kind: string, what: string): DeviceOptions {
  const module = new URL('./backends/memory.ts', import.meta.url)
  switch (kind) {
    case 'null':
      return { backend: nullTarget({ size: what }) }
    case 'mem':
      return { backend: memory({ size: what }) }
    case 'mem-zero-copy':
      return { backend: memory({ size: what }), dataPath: 'auto-zero-copy' }
    case 'file':
      return { backend: file({ path: what }) }
    case 'file-direct':
      return { backend: file({ path: what, direct: true }) }
    case 'file-copy':
      return { backend: file({ path: what }), dataPath: 'copy' }
    case 'js-worker-sync':
      return { backend: worker(module, { options: { size: what, mode: 'sync' } }) }
    case 'js-worker-async':
      return { backend: worker(module, { options: { size: what, mode: 'async' } }) }
    case 'js-main-sync':
      return { backend: memoryBackend({ size: what, mode: 'sync' }) }
    default:
      throw new Error(
        `"${kind}" is none of null, mem, mem-zero-copy, file, file-direct, file-copy, js-worker-sync, js-worker-async and js-main-sync`,
      )
  }
}

const [kind = '', what = '', more = '{}'] = process.argv.slice(2)
const device = await createDevice({ ...deviceOptions(kind, what), ...SHAPE, ...(JSON.parse(more) as Partial<DeviceOptions>) })
device.on('error', (error) => {
  console.error(error)
  process.exitCode = 1
})
console.log(device.path)
const questions = createInterface({ input: process.stdin })
questions.on('line', () => {
  const { enters, completions } = device.stats()
  console.log(JSON.stringify({ enters, completions }))
})
await once(questions, 'close')
await device.close()
