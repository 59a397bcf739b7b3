/**
 * Creates and closes devices in one process and prints the milliseconds from `createDevice` to live of each, as JSON.
 *
 *   node bench/create.ts COUNT
 */
import { createDevice, memory } from 'ublk'

const milliseconds: number[] = []
for (let index = 0; index < Number(process.argv[2]); index++) {
  const begin = performance.now()
  const device = await createDevice({ backend: memory({ size: '64MiB' }), queues: 1, depth: 128 })
  milliseconds.push(performance.now() - begin)
  await device.close()
}
console.log(JSON.stringify(milliseconds))
