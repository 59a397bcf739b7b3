/**
 * Creates and closes devices in one process and prints the milliseconds from `createDevice` to live of each, as JSON. udev runs, and has
 * nothing left to do with the former device when the next one is made.
 *
 *   node bench/create.ts COUNT
 */
import { execFileSync } from 'node:child_process'
import { createDevice, memory } from 'ublk'

const milliseconds: number[] = []
for (let index = 0; index < Number(process.argv[2]); index++) {
  execFileSync('udevadm', ['settle'])
  const begin = performance.now()
  const device = await createDevice({ backend: memory({ size: '64MiB' }), queues: 1, depth: 128 })
  milliseconds.push(performance.now() - begin)
  await device.close()
}
console.log(JSON.stringify(milliseconds))
