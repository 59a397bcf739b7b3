/**
 * One process that serves a device until something happens to it; boundary.test.ts reads the device and watches how the process ends.
 *
 * Arguments: place of the backend (main, worker, worker-sync, owner-worker), its trap, what this process does when the trap is near (stay,
 * exit, throw). Prints `ready ID`, then `timeout` or `error CODE` as they come, and `closed` when the device is gone while the process lives.
 */
import { isMainThread, Worker } from 'node:worker_threads'
import { type Backend, createDevice, worker } from '../../src/index.ts'
import trapBackend, { type Trap } from './trap-backend.ts'

const [place = '', trap = 'none', act = 'stay'] = process.argv.slice(2) as [string, Trap, string]
const say = (line: string): void => void process.stdout.write(`${line}\n`)

if (place === 'owner-worker' && isMainThread) {
  // A device whose owner is not the main thread: it goes with the owner.
  const owner = new Worker(new URL(import.meta.url), { argv: process.argv.slice(2) })
  owner.on('exit', () => say('owner ended'))
  process.stdin.once('data', () => void owner.terminate())
  process.stdin.unref()
} else {
  await serve()
}

async function serve(): Promise<void> {
  const module = new URL('./trap-backend.ts', import.meta.url)
  const sync = place === 'worker-sync'
  const backend: Backend | ReturnType<typeof worker> =
    place === 'main' || place === 'owner-worker' ? trapBackend({ trap }) : worker(module, { options: { trap, sync } })
  const device = await createDevice({ backend, requestTimeoutMs: 800, depth: 16 })
  device.on('timeout', () => say('timeout'))
  device.on('error', ({ code }) => say(`error ${code}`))
  device.on('close', () => say('closed'))
  say(`ready ${device.id}`)
  if (act === 'stay') return
  process.stdin.once('data', () => {
    if (act === 'exit') process.exit(7)
    if (act === 'throw') throw new Error('thrown on the main thread')
    void device.close()
  })
  process.stdin.unref()
}
