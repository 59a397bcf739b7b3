/**
 * Devices' lives: stages, restarts, many, two at once, open during delete, stop under load, and servers that are killed. Always
 * in bounded time, with a clear result, and with nothing left behind.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync } from 'node:fs'
import { mkdir, open, readFile, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import {
  createDevice,
  Device,
  type DeviceOptions,
  deleteDevice,
  fault,
  listDevices,
  memory,
  mirror,
  nullTarget,
  type UblkError,
  worker,
} from '../../src/index.ts'
import trapBackend, { TRAP_OFFSET } from '../boundary/trap-backend.ts'
import { fioVerify, kernelFlags, memoryBackend, run, until, withDevice, withDirectory } from './support.ts'

const MIB = 1 << 20

const fileDescriptors = (): number => readdirSync('/proc/self/fd').length
const threads = (): number => readdirSync('/proc/self/task').length

async function within<T>(t: ExecutionContext, limitMs: number, work: Promise<T>): Promise<T> {
  const started = performance.now()
  const value = await work
  const took = performance.now() - started
  t.true(took < limitMs, `took ${Math.round(took)} ms, more than ${limitMs}`)
  return value
}

const readFirstByte = (path: string): Promise<number> => readAt(path, 0)

/** First byte of a block. */
async function readAt(path: string, offset: number): Promise<number> {
  const handle = await open(path)
  try {
    const { buffer } = await handle.read(Buffer.alloc(4096), 0, 4096, offset)
    return buffer[0] as number
  } finally {
    await handle.close()
  }
}

const stagedBackends: Record<string, () => DeviceOptions['backend']> = {
  mem: () => memory({ size: 16 * MIB }),
  'js main': () => memoryBackend(16 * MIB),
  'js worker': () =>
    worker(new URL('./shared-memory-backend.ts', import.meta.url), { options: { store: new SharedArrayBuffer(16 * MIB) } }),
}

for (const [name, makeBackend] of Object.entries(stagedBackends)) {
  test.serial(`${name}: create, start, stop, start, close`, async (t) => {
    const device = await Device.create({ backend: makeBackend() })
    t.is(device.state, 'dead')
    t.false(existsSync(device.path))
    await device.start()
    t.is(device.state, 'live')
    await run('dd', 'if=/dev/zero', `of=${device.path}`, 'bs=1M', 'count=1', 'oflag=direct', 'status=none')
    await device.stop()
    await device.stop()
    t.is(device.state, 'dead')
    t.false(existsSync(device.path))
    await device.start()
    t.is(await readFirstByte(device.path), 0)
    t.true(device.isRunning)
    const closing = device.close()
    await Promise.all([closing, device.close()])
    t.is(device.state, 'closed')
    t.deepEqual(await listDevices(), [])
    await t.throwsAsync(device.start(), { code: 'ERR_UBLK_INVALID_STATE' })
  })
}

test.serial('two devices at once keep their own bytes', async (t) => {
  await withDevice({ backend: memoryBackend(8 * MIB) }, (one) =>
    withDevice({ backend: memory({ size: 8 * MIB }) }, async (two) => {
      t.not(one.id, two.id)
      for (const [device, byte] of [
        [one, 1],
        [two, 2],
      ] as const) {
        const handle = await open(device.path, 'r+')
        await handle.write(Buffer.alloc(4096, byte), 0, 4096, 0)
        await handle.sync()
        await handle.close()
      }
      t.deepEqual([await readFirstByte(one.path), await readFirstByte(two.path)], [1, 2])
      t.is((await listDevices()).length, 2)
    }),
  )
})

test.serial('200 devices come and go without growth', async (t) => {
  t.timeout(240_000)
  const cycle = () => withDevice({ backend: nullTarget({ size: MIB }), depth: 16 }, async () => {})
  for (let count = 0; count < 10; count++) await cycle()
  globalThis.gc?.()
  const before = { fds: fileDescriptors(), threads: threads(), rss: process.memoryUsage.rss() }
  for (let count = 0; count < 200; count++) await cycle()
  globalThis.gc?.()
  await until(() => fileDescriptors() <= before.fds)
  await until(() => threads() <= before.threads)
  t.true(process.memoryUsage.rss() < before.rss + 24 * MIB)
})

test.serial('close under load ends the load with an error, in time', async (t) => {
  for (const backend of [memory({ size: 64 * MIB }), memoryBackend(64 * MIB)]) {
    const device = await createDevice({ backend })
    const load = run(
      'fio',
      '--name=load',
      `--filename=${device.path}`,
      '--rw=randrw',
      '--bs=4k',
      '--direct=1',
      '--ioengine=libaio',
      '--iodepth=32',
      '--time_based',
      '--runtime=60',
    )
    load.catch(() => {})
    await delay(2000)
    await within(t, 10_000, device.close())
    await t.throwsAsync(load)
    t.deepEqual(await listDevices(), [])
  }
})

test.serial('a device that somebody holds open can be closed', async (t) => {
  const device = await createDevice({ backend: memory({ size: 8 * MIB }) })
  const handle = await open(device.path)
  await within(t, 5000, device.close())
  t.false(existsSync(device.path))
  const bytesRead = await handle.read(Buffer.alloc(4096), 0, 4096, 4 * MIB).then(
    (result) => result.bytesRead,
    () => 0,
  )
  t.is(bytesRead, 0, 'a device that is gone gave data')
  await handle.close()
  await until(async () => (await listDevices()).length === 0)
})

test.serial('a request that is not answered is in flight', async (t) => {
  for (const where of ['main', 'worker'] as const) {
    const options = { trap: 'slow' as const }
    const backend = where === 'main' ? trapBackend(options) : worker(new URL('../boundary/trap-backend.ts', import.meta.url), { options })
    await withDevice({ backend }, async (device) => {
      await until(() => device.stats().inFlight === 0)
      const reading = readAt(device.path, TRAP_OFFSET)
      await until(() => device.stats().inFlight === 1)
      await reading
      await until(() => device.stats().inFlight === 0)
      t.true(device.stats().operations.read.requests > 0)
    })
  }
})

test.serial('one queue that does not open takes the others along, whoever is heard first', async (t) => {
  const backend = new URL('./second-queue-fails.ts', import.meta.url)
  for (let round = 0; round < 10; round++) {
    const gate = new SharedArrayBuffer(4)
    const creating = createDevice({ backend, backendOptions: { gate }, queues: 2, depth: 4 })
    await t.throwsAsync(within(t, 15_000, creating), { code: 'ERR_UBLK_BACKEND', message: /the second queue fails/ })
    t.deepEqual(await listDevices(), [])
  }
})

test.serial('an abort during create or start leaves nothing behind', async (t) => {
  for (const afterMs of [0, 1, 3, 10, 30]) {
    const signal = AbortSignal.timeout(afterMs)
    try {
      const device = await createDevice({ backend: memoryBackend(MIB), signal })
      await device.close()
    } catch (error) {
      t.is((error as Error).name, 'AbortError')
    }
    t.deepEqual(await listDevices(), [])
  }
})

test.serial('a device stopped or deleted by another process ends here too', async (t) => {
  const device = await createDevice({ backend: memory({ size: MIB }) })
  const closed = once(device, 'stop')
  await deleteDevice(device.id)
  await within(t, 5000, closed)
  await device.close()
  t.deepEqual(await listDevices(), [])
})

/** A server of its own, killed with SIGKILL; resolves with what the kernel then lists. */
async function killServer(t: ExecutionContext, options: string, stage: 'created' | 'live' | 'loaded'): Promise<void> {
  const server = spawn(process.execPath, [new URL('./server-program.ts', import.meta.url).pathname, options, stage], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const id = await readyId(server)
  const reader = stage === 'loaded' ? run('dd', `if=/dev/ublkb${id}`, 'of=/dev/null', 'bs=64k', 'iflag=direct', 'status=none') : null
  reader?.catch(() => {})
  if (stage === 'loaded') await delay(500)
  server.kill('SIGKILL')
  await once(server, 'exit')
  if (reader !== null) await t.throwsAsync(within(t, 20_000, reader))
  const [left] = await listDevices()
  t.is(left?.id, id)
  await within(t, 10_000, deleteDevice(id))
  t.deepEqual(await listDevices(), [])
  t.false(existsSync(`/dev/ublkb${id}`))
  t.false(existsSync(`/dev/ublkc${id}`))
}

async function readyId(server: ChildProcess): Promise<number> {
  for await (const line of server.stdout as NodeJS.ReadableStream) {
    const match = /ready (\d+)/.exec(String(line))
    if (match !== null) return Number(match[1])
  }
  throw new Error('the server ended before it was ready')
}

for (const backend of ['mem', 'main', 'worker', 'slow']) {
  for (const stage of ['created', 'live', 'loaded'] as const) {
    test.serial(`kill -9 of a ${backend} server when ${stage}: the device can be deleted at once`, async (t) => {
      t.timeout(60_000)
      await killServer(t, backend, stage)
    })
  }
}

test.serial('a recoverable device whose worker dies is quiesced, every time', async (t) => {
  const backend = worker(new URL('../boundary/trap-backend.ts', import.meta.url), { options: { trap: 'exit' } })
  for (let round = 0; round < 8; round++) {
    const device = await createDevice({ backend, recovery: 'requeue' })
    device.on('error', () => {})
    const reading = readAt(device.path, TRAP_OFFSET).catch((error: NodeJS.ErrnoException) => error.code)
    await device.waitFor('quiesced', { timeoutMs: 20_000 })
    t.is((await device.info()).state, 'quiesced', `round ${round}`)
    await deleteDevice(device.id)
    t.is(await reading, 'EIO')
    await device.close()
  }
})

test.serial('the kernel had nothing to complain about', async (t) => {
  const complaints = (await run('dmesg')).split('\n').filter((line) => /\b(BUG|Oops|hung_task|blocked for more than)\b/.test(line))
  t.deepEqual(complaints, [])
  t.true((await readFile('/proc/modules', 'utf8')).includes('ublk_drv'))
})

/** A file of one huge page, as the users of a device make it. */
async function hugePage(name: string): Promise<string> {
  await writeFile('/proc/sys/vm/nr_hugepages', '24')
  const directory = '/run/huge-pages'
  await mkdir(directory, { recursive: true })
  if (!(await readFile('/proc/mounts', 'utf8')).includes(directory)) await run('mount', '-t', 'hugetlbfs', 'none', directory)
  const path = `${directory}/${name}`
  await writeFile(path, '')
  await truncate(path, 2 * MIB)
  return path
}

const isMapped = async (path: string): Promise<boolean> => (await readFile('/proc/self/maps', 'utf8')).includes(path)

test.serial('memory is shared and let go of while the device is used', async (t) => {
  if (!(await kernelFlags()).has('SHMEM_ZC')) {
    const refused = createDevice({ backend: memory({ size: 32 * MIB }), dataPath: 'shmem' })
    const { hint } = (await t.throwsAsync<UblkError>(refused, { code: 'ERR_UBLK_UNSUPPORTED' })) ?? t.fail()
    t.is(hint, 'It needs Linux 7.1 or later.')
    return
  }
  const [first, second] = [await hugePage('first'), await hugePage('second')]
  await withDevice({ backend: memory({ size: 32 * MIB }), sharedMemory: [{ path: first, readOnly: true }] }, async (device) => {
    t.is(device.dataPath, 'shmem')
    const shared = async () => (await device.sharedMemory()).map(({ fileId: _, ...rest }) => rest)
    t.deepEqual(await shared(), [{ path: first, readOnly: true, size: 2 * MIB, number: 0 }])
    const load = fioVerify(device.path, { blockSize: '64k', sizeBytes: 16 * MIB })
    await device.shareMemory(second)
    t.deepEqual(await shared(), [
      { path: first, readOnly: true, size: 2 * MIB, number: 0 },
      { path: second, readOnly: false, size: 2 * MIB, number: 1 },
    ])
    t.true(await isMapped(second))
    await device.unshareMemory(first)
    t.deepEqual(await shared(), [{ path: second, readOnly: false, size: 2 * MIB, number: 1 }])
    t.false(await isMapped(first))
    for (const [refused, message] of [
      [device.shareMemory(second), `device ${device.id} shares the memory of ${second} already`],
      [device.unshareMemory(first), `device ${device.id} shares no memory of ${first}`],
    ] as const) {
      await t.throwsAsync(refused, { code: 'ERR_UBLK_INVALID_STATE', message })
    }
    await t.throwsAsync(device.shareMemory('/run/huge-pages/missing'), { code: 'ERR_UBLK_FILE' })
    await load
  })
  t.false(await isMapped(second))
  await withDevice({ backend: memory({ size: MIB }), dataPath: 'copy' }, async (device) => {
    const message = `device ${device.id} moves its data by copy, not by shmem`
    await t.throwsAsync(device.shareMemory(second), { code: 'ERR_UBLK_INVALID_STATE', message })
  })
})

test.serial('who is the first to listen hears the warnings from before, too', async (t) => {
  await withDirectory(async (directory) => {
    const backend = fault(memory({ size: 8 * MIB }), { errorOps: ['write'], errorRange: { begin: MIB, end: 2 * MIB } })
    await withDevice({ backend }, async (bad) => {
      const good = join(directory, 'good.img')
      await writeFile(good, Buffer.alloc(4 * MIB, 7))
      await withDevice({ backend: mirror({ paths: [good, bad.path], create: true }) }, async (device) => {
        // The new leg is filled, which meets the fault.
        await until(() => device.stats().legs[1]?.state === 'failed')
        await delay(100)
        const [warning] = await once(device, 'warning', { signal: AbortSignal.timeout(10_000) })
        t.regex(warning.message, new RegExp(`${bad.path}.*Input/output error`))
        let more = 0
        device.on('warning', () => more++)
        await delay(100)
        t.is(more, 0, 'it is told once')
      })
    })
  })
})

test.serial('the memory of requests is aligned and cut as asked for', async (t) => {
  const wish = { dmaAlignment: 1024, maxSegments: 8, maxSegmentSize: '64KiB', segmentBoundary: '128KiB' } as const
  const backend = memory({ size: 32 * MIB })
  if (!(await kernelFlags()).has('AUTO_BUF_REG')) {
    const { hint } = (await t.throwsAsync<UblkError>(createDevice({ backend, ...wish }), { code: 'ERR_UBLK_UNSUPPORTED' })) ?? t.fail()
    t.is(hint, 'It needs Linux 6.15 or later.')
    return
  }
  await withDevice({ backend, ...wish }, async (device) => {
    const { dmaAlignment, maxSegments, maxSegmentSize, segmentBoundary } = await device.info()
    t.deepEqual([dmaAlignment, maxSegments, maxSegmentSize, segmentBoundary], [1024, 8, 64 << 10, 128 << 10])
    const setting = async (name: string) => Number(await readFile(`/sys/block/ublkb${device.id}/queue/${name}`, 'utf8'))
    t.is(await setting('dma_alignment'), 1023)
    t.is(await setting('max_segments'), 8)
    t.is(await setting('max_segment_size'), 64 << 10)
    await fioVerify(device.path, { blockSize: '512k', sizeBytes: 16 * MIB })
  })
})
