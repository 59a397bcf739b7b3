/** Backend modules in real workers, up to the point where a kernel is needed. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import test from 'ava'
import type { Abilities } from '../../src/backend.ts'
import type { NativeDevice } from '../../src/native.ts'
import { QueueWorker } from '../../src/queue-worker.ts'
import { WorkerServer } from '../../src/server.ts'
import { worker } from '../../src/targets.ts'

const moduleOf = (source: string): string => `data:text/javascript,${encodeURIComponent(source)}`

async function load(source: string, options: Record<string, unknown> = {}): Promise<Abilities> {
  const queueWorker = new QueueWorker({ url: source.startsWith('file:') ? source : moduleOf(source), options }, 0)
  try {
    return await queueWorker.loaded
  } finally {
    await queueWorker.terminate()
    await queueWorker.exited
  }
}

for (const [name, source] of [
  ['a backend', 'export default { size: "1MiB", sync: true, read() {}, write() {} }'],
  ['a factory', 'export default ({ size }) => ({ size, sync: true, read() {}, write() {} })'],
  ['an async factory', 'export default async ({ size }) => ({ size, sync: true, read() {}, write() {} })'],
] as const) {
  test(`a module whose default export is ${name} says what it can do`, async (t) => {
    t.like(await load(source, { size: '1MiB' }), { sizeBytes: 2 ** 20, sync: true, write: true, flush: false })
  })
}

for (const [name, source, message] of [
  ['that is missing', 'file:///nowhere/x.js', /cannot be loaded: Cannot find module/],
  ['with a syntax error', 'export default {', /cannot be loaded: Unexpected/],
  ['that throws', 'throw new Error("no luck")', /cannot be loaded: no luck/],
  ['without a default export', 'export const read = 1', /the default export must be an object with a read method$/],
  ['whose factory rejects', 'export default async () => { throw new Error("no luck") }', /no luck/],
  ['whose factory returns nothing', 'export default () => {}', /the default export must be an object/],
  ['without read', 'export default { write() {} }', /the default export's read must be a function/],
  ['with a bad size', 'export default { size: "big", read() {} }', /the default export's size must be/],
  ['that exits', 'process.exit(3)', /the thread ended with exit code 3/],
  [
    'that throws from a callback',
    'setTimeout(() => { throw new Error("later") }); await new Promise(() => setInterval(() => {}, 1e6))',
    /later/,
  ],
] as const) {
  test(`a module ${name} is ERR_UBLK_BACKEND, and its worker ends`, async (t) => {
    const error = await t.throwsAsync(load(source), { code: 'ERR_UBLK_BACKEND', message })
    t.regex((error as Error & { hint: string }).hint, name === 'that is missing' ? /Check the path/ : /default export/)
    t.true(error?.cause instanceof Error)
  })
}

for (const [name, source, place] of [
  ['a syntax error', 'const ok = 1\nexport default {', /^`node \/\S+\/backend\.mjs` shows the line\.$/],
  ['a module that throws', '\n\nthrow new Error("no luck")', /^Thrown at file:\/\/\/\S+\/backend\.mjs:3:7\.$/],
  ['a factory that throws', 'export default () => {\n  throw new Error("no luck")\n}', /^Thrown at file:\/\/\/\S+\/backend\.mjs:2:9\.$/],
] as const) {
  test(`the hint names the place of ${name}`, async (t) => {
    const directory = await mkdtemp(join(tmpdir(), 'ublk-module-'))
    t.teardown(() => rm(directory, { recursive: true }))
    const path = join(directory, 'backend.mjs')
    await writeFile(path, source)
    const error = await t.throwsAsync(load(pathToFileURL(path).href), { code: 'ERR_UBLK_BACKEND' })
    t.regex((error as Error & { hint: string }).hint, place)
  })
}

test('the error of a module keeps its code', async (t) => {
  const error = await t.throwsAsync(load('throw Object.assign(new Error("no"), { code: "EACCES", errno: -13 })'))
  t.like(error?.cause, { code: 'EACCES', errno: -13 })
})

test('a server that never started ends its worker at once', async (t) => {
  const server = new WorkerServer(worker(moduleOf('setInterval(() => {}, 1e6); export default { read() {} }') as string))
  await server.load()
  const begin = performance.now()
  await server.finish()
  t.true(performance.now() - begin < 1500)
  await server.finish()
})

test('a backend that does not open keeps the driver out of it, and those of the other queues are closed', async (t) => {
  const source = `export default ({ calls }) => ({
    read() {},
    open({ queue }) {
      if (queue === 1) throw new Error('no store')
      Atomics.add(calls, 0, 1)
    },
    close: () => void Atomics.add(calls, 1, 1),
  })`
  const calls = new Int32Array(new SharedArrayBuffer(8))
  const server = new WorkerServer(worker(moduleOf(source), { options: { calls } }))
  const info = {
    id: 0,
    path: '/dev/ublkb0',
    size: 4096,
    blockSize: 512,
    readOnly: false,
    queues: 3,
    depth: 1,
    maxIoBytes: 4096,
    queue: null,
  }
  const device = { prepare: () => t.fail('the driver is told') } as unknown as NativeDevice
  const listener = { onPrepare: () => t.fail(), onFailure: () => t.fail(), onDeath: () => t.fail() }
  await t.throwsAsync(server.start(device, info, new AbortController().signal, listener), {
    code: 'ERR_UBLK_BACKEND',
    message: 'the backend of queue 1 did not start: no store',
  })
  while (Atomics.load(calls, 0) < 2) await delay(1)
  await delay(50) // both have said so
  await server.finish()
  t.deepEqual([...calls], [2, 2])
})
