/**
 * Devices that outlive their servers: killed, quiesced, handed over, resized; by native targets and by backends in JavaScript.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import {
  type Backend,
  createDevice,
  type Device,
  deleteDevice,
  deviceInfo,
  fault,
  file,
  listDevices,
  memory,
  mirror,
  nullTarget,
  quiesceDevice,
  type Recovery,
  recoverDevice,
  resizeDevice,
  stopDevice,
  worker,
} from '../../src/index.ts'
import fileBackend from './recovery-backend.ts'
import type { Order } from './recovery-server.ts'
import { fioVerify, kernelFlags, run, until, withDevice, withDirectory } from './support.ts'

const MIB = 1 << 20
const SIZE = 64 * MIB
const here = await kernelFlags()
/** Linux 6.16 and later. */
const canQuiesce = here.has('QUIESCE')
const policies: Recovery[] = here.has('USER_RECOVERY_FAIL_IO') ? ['requeue', 'reissue', 'fail-io'] : ['requeue', 'reissue']

const backends = {
  file: (image: string) => file(image),
  main: (image: string) => fileBackend({ path: image, size: SIZE }),
  worker: (image: string) => worker(new URL('./recovery-backend.ts', import.meta.url), { options: { path: image, size: SIZE } }),
}
type Where = keyof typeof backends

/** A server process of its own; resolves when its device is live. */
async function serve(t: ExecutionContext, order: Partial<Order> & { path: string }): Promise<{ server: ChildProcess; id: number }> {
  const whole: Order = { where: 'file', size: SIZE, recovery: 'reissue', queues: 1, ...order }
  const program = new URL('./recovery-server.ts', import.meta.url).pathname
  const server = spawn(process.execPath, [program, JSON.stringify(whole)], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => server.kill('SIGKILL'))
  for await (const line of server.stdout as NodeJS.ReadableStream) {
    const id = /ready (\d+)/.exec(String(line))?.[1]
    if (id !== undefined) return { server, id: Number(id) }
  }
  throw new Error('the server ended before its device was live')
}

async function kill(server: ChildProcess): Promise<void> {
  // One whose device was quiesced has ended by itself.
  if (server.exitCode === null && server.kill('SIGKILL')) await once(server, 'exit')
}

async function withImage<T>(use: (image: string, directory: string) => Promise<T>): Promise<T> {
  return withDirectory(async (directory) => {
    const image = path.join(directory, 'disk.img')
    writeFileSync(image, '')
    truncateSync(image, SIZE)
    return use(image, directory)
  })
}

/** Writes that are read back and compared in the end; resolves when it is well under way. */
async function verifyLoad(id: number): Promise<{ end: Promise<void> }> {
  const end = fioVerify(`/dev/ublkb${id}`, { blockSize: '4k-64k', sizeBytes: 28 * MIB, jobs: 2 })
  end.catch(() => {})
  // Field 5 of a disk's stat: writes completed.
  const writes = (): number => Number(readFileSync(`/sys/block/ublkb${id}/stat`, 'utf8').trim().split(/\s+/)[4])
  await until(() => writes() > 50, 60_000) // fio takes its time to begin on a busy machine
  return { end }
}

const stateOf = async (id: number): Promise<string> => (await deviceInfo(id)).state
const requests = (device: Device): number =>
  Object.values(device.stats().operations).reduce((sum, operation) => sum + operation.requests, 0)

/** In a machine that is emulated, and shared; a worker starts and loads its module meanwhile. tests/recovery.rs asserts one second. */
const resumeLimitMs = { file: 10_000, main: 10_000, worker: 30_000 }

/** Recovers while a load runs: until its first request is answered by the new server. */
async function recoverUnderLoad(t: ExecutionContext, id: number, where: Where, image: string): Promise<Device> {
  const began = performance.now()
  const device = await recoverDevice(id, { backend: backends[where](image) })
  await until(() => requests(device) > 0)
  const resumedMs = performance.now() - began
  t.log(`${where}: I/O goes on ${Math.round(resumedMs)} ms after recover`)
  t.true(resumedMs < resumeLimitMs[where], `${where}: ${resumedMs} ms`)
  return device
}

for (const where of Object.keys(backends) as Where[]) {
  test.serial(`${where}: kill -9 under load, recover, and no write is lost`, (t) =>
    withImage(async (image) => {
      t.timeout(180_000)
      const { server, id } = await serve(t, { where, path: image, recovery: 'reissue', queues: where === 'file' ? 2 : 1 })
      const load = await verifyLoad(id)
      await kill(server)
      const device = await recoverUnderLoad(t, id, where, image)
      t.is(device.state, 'live')
      t.like(await device.info(), { id, size: SIZE, pid: process.pid })
      await load.end
      await device.close()
      t.deepEqual(await listDevices(), [])
    }),
  )
}

for (const recovery of policies) {
  test.serial(`${recovery}: what a killed server's device is, and what its users see`, (t) =>
    withImage(async (image) => {
      const { server, id } = await serve(t, { path: image, recovery })
      await kill(server)
      const waiting = recovery === 'fail-io' ? 'fail_io' : 'quiesced'
      await until(async () => (await stateOf(id)) === waiting)
      const reading = run('dd', `if=/dev/ublkb${id}`, 'of=/dev/null', 'bs=4k', 'count=1', 'iflag=direct', 'status=none')
      if (recovery === 'fail-io') await t.throwsAsync(reading, { message: /I\/O error/ })
      const device = await recoverDevice(id, { backend: file(image) })
      t.is(device.state, 'live')
      if (recovery !== 'fail-io') await reading
      await fioVerify(device.path, { blockSize: '4k', sizeBytes: MIB })
      await device.close()
    }),
  )
}

test.serial('off: the device of a killed server is dead', (t) =>
  withImage(async (image) => {
    const { server, id } = await serve(t, { path: image, recovery: 'off' })
    await kill(server)
    await until(async () => (await stateOf(id)) === 'dead')
    const error = await t.throwsAsync(recoverDevice(id, { backend: file(image) }), { code: 'ERR_UBLK_INVALID_STATE' })
    t.regex(error?.message ?? '', /was made without recovery/)
    await deleteDevice(id)
  }),
)

for (const where of Object.keys(backends) as Where[]) {
  test.serial(`${where}: quiesce, a new process, recover, under load: nothing is lost`, (t) =>
    withImage(async (image) => {
      t.timeout(180_000)
      if (!canQuiesce) return assertNoQuiesce(t)
      const { server, id } = await serve(t, { where, path: image, recovery: 'requeue' })
      const load = await verifyLoad(id)
      // From outside; then by the one that serves; then once more from outside, to a process of its own.
      await quiesceDevice(id)
      t.is(await stateOf(id), 'quiesced')
      const device = await recoverUnderLoad(t, id, where, image)
      await device.quiesce()
      await device.quiesce()
      t.is(device.state, 'quiesced')
      t.is(await stateOf(id), 'quiesced')
      await device.close()
      t.is(device.state, 'closed')
      t.is(await stateOf(id), 'quiesced', 'close() leaves a quiesced device to the next server')
      const next = await serve(t, { where, path: image, id })
      t.like(await deviceInfo(id), { state: 'live', pid: next.server.pid as number })
      await load.end
      await deleteDevice(id)
      await Promise.all([kill(server), kill(next.server)])
    }),
  )
}

test.serial('a quiesce that takes longer than its limit is done when the last handler has answered', async (t) => {
  if (!canQuiesce) return assertNoQuiesce(t)
  let release = (): void => {}
  const released = new Promise<void>((resolve) => {
    release = resolve
  })
  let [isHolding, hasRequest] = [false, false]
  const backend: Backend = {
    size: MIB,
    async read(buffer) {
      if (isHolding) {
        hasRequest = true
        await released
      }
      buffer.fill(0)
    },
  }
  await withDevice({ backend, recovery: 'reissue' }, async (device) => {
    isHolding = true
    const reading = run('dd', `if=${device.path}`, 'of=/dev/null', 'bs=4096', 'count=1', 'iflag=direct')
    await until(() => hasRequest)
    await t.throwsAsync(device.quiesce({ timeoutMs: 300 }), { code: 'ERR_UBLK_TIMEOUT' })
    release()
    await device.waitFor('quiesced', { timeoutMs: 20_000 })
    t.is(await stateOf(device.id), 'quiesced')
    const next = await recoverDevice(device.id, { backend: memory({ size: MIB }) })
    t.is(next.state, 'live')
    // The request that was held may be udev's, and this one the next server's.
    await reading
    await next.close()
  })
})

test.serial('a quiesce of a native target that takes longer than its limit says so in time, and is done later', async (t) => {
  if (!canQuiesce) return assertNoQuiesce(t)
  await withDevice({ backend: fault(memory({ size: MIB }), { delayMs: 4000 }), recovery: 'reissue' }, async (device) => {
    const reading = run('dd', `if=${device.path}`, 'of=/dev/null', 'bs=4096', 'count=1', 'iflag=direct')
    await until(async () => /[1-9]/.test(readFileSync(`/sys/block/ublkb${device.id}/inflight`, 'utf8')))
    const begin = performance.now()
    await t.throwsAsync(device.quiesce({ timeoutMs: 300 }), { code: 'ERR_UBLK_TIMEOUT' })
    t.true(performance.now() - begin < 3000, 'the limit counts, not the request')
    await device.waitFor('quiesced', { timeoutMs: 20_000 })
    const next = await recoverDevice(device.id, { backend: memory({ size: MIB }) })
    await reading
    await next.close()
  })
})

test.serial('memory that a former server shared and nobody was told of is forgotten by the driver', async (t) => {
  if (!here.has('SHMEM_ZC')) {
    t.pass('this kernel has no shared memory')
    return
  }
  await withImage(async (image, directory) => {
    const [first, second] = ['first', 'second'].map((name) => path.join(directory, name)) as [string, string]
    for (const memoryFile of [first, second]) writeFileSync(memoryFile, Buffer.alloc(MIB))
    const device = await createDevice({ backend: file(image), sharedMemory: [first, second], recovery: 'reissue' })
    const shared = await device.sharedMemory()
    await device.quiesce()

    // It died when the driver had the first one and the record not yet.
    const next = await recoverDevice(device.id, { backend: file(image), sharedMemory: shared.slice(1) })
    await next.shareMemory(first)
    t.deepEqual(await next.sharedMemory(), shared)
    await next.quiesce()

    // And here while it let go of the first one.
    const leaving = shared.map((memory, index) => (index === 0 ? { ...memory, fileId: '' } : memory))
    const last = await recoverDevice(device.id, { backend: file(image), sharedMemory: leaving })
    last.on('warning', ({ message }) => t.fail(message))
    t.deepEqual(await last.sharedMemory(), shared.slice(1))
    await last.shareMemory(first)
    t.deepEqual(await last.sharedMemory(), shared)
    await last.close()
  })
})

async function assertNoQuiesce(t: ExecutionContext): Promise<void> {
  await withDevice({ backend: nullTarget({ size: MIB }), recovery: 'requeue' }, async (device) => {
    for (const quiesce of [() => device.quiesce(), () => quiesceDevice(device.id)]) {
      await t.throwsAsync(quiesce(), { code: 'ERR_UBLK_UNSUPPORTED', message: 'this kernel has no control command QUIESCE_DEV' })
    }
    t.is(device.state, 'live')
  })
}

test.serial('a recovery that fails leaves the device to the next one', (t) =>
  withImage(async (image, directory) => {
    const { server, id } = await serve(t, { path: image, where: 'worker' })
    await kill(server)
    const mark = path.join(directory, 'no-store')
    writeFileSync(mark, '')
    const options = { path: image, size: SIZE, failsToOpen: mark }
    const module = worker(new URL('./recovery-backend.ts', import.meta.url), { options })
    for (const backend of [module, fileBackend(options)]) {
      await t.throwsAsync(recoverDevice(id, { backend }), { code: 'ERR_UBLK_BACKEND', message: /the store is not there yet/ })
      // The driver has heard nothing of it: from START_USER_RECOVERY on a failure would end the device, or the kernel.
      t.is(await stateOf(id), 'quiesced')
    }
    // A file that is made anew would be an empty disk under a mounted file system.
    const gone = path.join(directory, 'gone.img')
    const making = { path: gone, size: SIZE, create: true }
    for (const backend of [file(gone), file(making), fault(file(making), {}), mirror({ paths: [gone, image], size: SIZE, create: true })]) {
      await t.throwsAsync(recoverDevice(id, { backend }), { code: 'ERR_UBLK_FILE' })
      t.false(existsSync(gone))
    }
    await t.throwsAsync(recoverDevice(id, { backend: module, signal: AbortSignal.abort() }), { name: 'AbortError' })
    t.is(await stateOf(id), 'quiesced')
    const device = await recoverDevice(id, { backend: fileBackend({ path: image, size: SIZE }) })
    t.is(device.state, 'live')
    await device.close()
  }),
)

/** Keeps recoveries from their first command, for up to two seconds each. */
async function holdRecoveries(): Promise<ChildProcess> {
  const holder = spawn('flock', ['--no-fork', '/dev/ublk-control', 'sh', '-c', 'echo held; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(holder.stdout, 'data')
  return holder
}

for (const where of Object.keys(backends) as Where[]) {
  test.serial(`${where}: an abort ends the wait for a server, and never the device`, (t) =>
    withImage(async (image) => {
      const { server, id } = await serve(t, { where, path: image })
      await kill(server)
      const backend = backends[where](image)
      const holder = await holdRecoveries()
      t.teardown(() => holder.kill('SIGKILL'))
      const aborting = new AbortController()
      const recovering = recoverDevice(id, { backend, signal: aborting.signal })
      // A worker takes its time to start. What is earlier than the first command is an end of the wait, too.
      await delay(where === 'worker' ? 1500 : 500)
      aborting.abort()
      const outcome = await recovering.catch((error: Error) => error)
      if (outcome instanceof Error) {
        t.not(where, 'file', outcome.message)
        t.is(outcome.name, 'AbortError')
        t.is(await stateOf(id), 'quiesced')
      } else {
        t.is(outcome.state, 'live')
        t.is(await stateOf(id), 'live')
        await outcome.close()
      }
    }),
  )
}

test.serial('close of a device that was deleted from outside leaves the next one of its number alone', async (t) => {
  const device = await createDevice({ backend: memory({ size: MIB }) })
  await deleteDevice(device.id)
  const program = `
    import { createDevice, nullTarget } from ${JSON.stringify(new URL('../../src/index.ts', import.meta.url).href)}
    await createDevice({ id: ${device.id}, backend: nullTarget({ size: '2MiB' }) })
    console.log('live')`
  const other = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(other.stdout, 'data')
  await device.close()
  t.is(await stateOf(device.id), 'live')
  t.is((await deviceInfo(device.id)).size, 2 * MIB)
  await kill(other)
  await deleteDevice(device.id)
})

test.serial('what cannot be recovered or quiesced says why', async (t) => {
  const backend = memory()
  await t.throwsAsync(recoverDevice(4000, { backend }), { code: 'ERR_UBLK_NO_DEVICE' })
  await t.throwsAsync(quiesceDevice(4000), { code: 'ERR_UBLK_NO_DEVICE' })
  await t.throwsAsync(recoverDevice(0, { backend, size: 5 } as never), { code: 'ERR_UBLK_NO_DEVICE' })
  await t.throwsAsync(quiesceDevice(0, { timeoutMs: 0 }), { code: 'ERR_OUT_OF_RANGE', message: /timeoutMs must be/ })
  await withDevice({ backend: memory({ size: MIB }), recovery: 'reissue' }, async (device) => {
    const stranger = { backend, size: 5 } as never
    await t.throwsAsync(recoverDevice(device.id, stranger), { code: 'ERR_INVALID_ARG_VALUE', message: /unknown option 'size'/ })
    await t.throwsAsync(device.waitFor('dead', { timeoutMs: Infinity }), { code: 'ERR_OUT_OF_RANGE', message: /^timeoutMs must be/ })
    const live = { code: 'ERR_UBLK_INVALID_STATE', message: new RegExp(`is live: process ${process.pid} serves it`) }
    await t.throwsAsync(recoverDevice(device.id, { backend }), live)
    await device.stop()
    await t.throwsAsync(recoverDevice(device.id, { backend }), {
      code: 'ERR_UBLK_INVALID_STATE',
      message: /is dead: it cannot be recovered/,
    })
    await t.throwsAsync(device.quiesce(), { code: 'ERR_UBLK_INVALID_STATE', message: /only a live device/ })
    await t.throwsAsync(quiesceDevice(device.id), { code: 'ERR_UBLK_INVALID_STATE', message: /is dead: it cannot be quiesced/ })
  })
  await withDevice({ backend: memory({ size: MIB }) }, async (device) => {
    await t.throwsAsync(device.quiesce(), { code: 'ERR_UBLK_INVALID_STATE', message: /was made without recovery/ })
    t.is(device.state, 'live')
  })
})

test.serial('a backend that cannot do what the device has promised is refused', (t) =>
  withImage(async (image) => {
    const { server, id } = await serve(t, { path: image, where: 'main' })
    await kill(server)
    const { flush: _, ...forgetful } = fileBackend({ path: image, size: SIZE })
    await t.throwsAsync(recoverDevice(id, { backend: forgetful }), { code: 'ERR_INVALID_ARG_VALUE', message: /one with a flush method/ })
    const readOnly = { read() {}, flush() {} }
    await t.throwsAsync(recoverDevice(id, { backend: readOnly }), { code: 'ERR_INVALID_ARG_VALUE', message: /readOnly/ })
    const short = `${image}.short`
    writeFileSync(short, Buffer.alloc(MIB))
    for (const backend of [file(short), file({ path: short, create: true })])
      await t.throwsAsync(recoverDevice(id, { backend }), { code: 'ERR_UBLK_FILE', message: /has 1048576 bytes, fewer/ })
    t.is(statSync(short).size, MIB)
    const device = await recoverDevice(id, { backend: fileBackend({ path: image, size: SIZE }) })
    await device.close()
  }),
)

test.serial('a recoverable device of a process that ends by itself is left to the next server', (t) =>
  withImage(async (image) => {
    const program = `
      import { createDevice, file } from ${JSON.stringify(new URL('../../src/index.ts', import.meta.url).href)}
      const device = await createDevice({ backend: file(${JSON.stringify(image)}), recovery: 'requeue' })
      console.log(device.id)
      process.exit(0)`
    const id = Number(await run(process.execPath, '--input-type=module', '-e', program))
    await until(async () => (await stateOf(id)) === 'quiesced')
    const device = await recoverDevice(id, { backend: file(image) })
    t.true(device.isRunning)
    await device.close()
  }),
)

const sizeSeen = async (device: Device): Promise<number> => Number(await run('blockdev', '--getsize64', device.path))

test.serial('a device in use grows and shrinks', (t) =>
  withImage(async (image) => {
    await withDevice({ backend: file({ path: image, create: true }), size: 8 * MIB }, async (device) => {
      await t.throwsAsync(device.resize(513), { code: 'ERR_OUT_OF_RANGE', message: /a multiple of the block size 512/ })
      if (!here.has('UPDATE_SIZE')) {
        const unsupported = { code: 'ERR_UBLK_UNSUPPORTED', message: 'this kernel has no control command UPDATE_SIZE' }
        await t.throwsAsync(device.resize('16M'), unsupported)
        await t.throwsAsync(resizeDevice(device.id, '16M'), unsupported)
        return
      }
      for (const [size, resize] of [
        [96 * MIB, () => device.resize('96MiB')],
        [4 * MIB, () => device.resize(4 * MIB)],
        [32 * MIB, () => resizeDevice(device.id, '32M')],
      ] as const) {
        await resize()
        t.is(await sizeSeen(device), size)
        t.is((await device.info()).size, size)
      }
      await fioVerify(device.path, { blockSize: '4k', sizeBytes: 32 * MIB })
      await stopDevice(device.id)
      await t.throwsAsync(resizeDevice(device.id, MIB), { code: 'ERR_UBLK_INVALID_STATE', message: /is dead: it cannot be resized/ })
    })
    await t.throwsAsync(resizeDevice(4000, MIB), { code: 'ERR_UBLK_NO_DEVICE' })
    if (!here.has('UPDATE_SIZE')) return
    await withDevice({ backend: memory({ size: 8 * MIB }) }, async (device) => {
      await device.resize(4 * MIB)
      t.is(device.size, 4 * MIB)
      await t.throwsAsync(device.resize(16 * MIB), { code: 'ERR_UBLK_NO_MEMORY', message: /mem device that was made with 8388608/ })
      t.is(await sizeSeen(device), 4 * MIB)
      await device.stop()
      await device.start()
      t.is(await sizeSeen(device), 4 * MIB, 'a stop keeps the size')
    })
  }),
)

test.serial('a mirror is recovered that was made smaller, or with a size not in whole blocks of its legs', (t) =>
  withDirectory(async (directory) => {
    if (!canQuiesce) return assertNoQuiesce(t)
    const recovered = async (paths: string[], size: number, smaller: number | null): Promise<number> => {
      const device = await createDevice({ backend: mirror({ paths, create: true }), size, recovery: 'reissue' })
      if (smaller !== null) await device.resize(smaller)
      await until(() => device.stats().legs.every((leg) => leg.state === 'in-sync'))
      await device.quiesce()
      await device.close()
      const next = await recoverDevice(device.id, { backend: mirror({ paths }) })
      const seen = await sizeSeen(next)
      await next.close()
      return seen
    }
    const image = (name: string): string => path.join(directory, name)
    t.is(await recovered([image('a'), image('b')], 8 * MIB, 4 * MIB), 4 * MIB)
    await withDevice({ backend: memory({ size: 16 * MIB }), blockSize: 4096 }, async (leg) => {
      t.is(await recovered([leg.path, image('c')], 4 * MIB + 512, null), 4 * MIB)
    })
  }),
)

test.afterEach.always('what a failed test leaves', async () => {
  for (const { id } of await listDevices()) await deleteDevice(id)
})

test.serial('nothing is left, and the kernel had nothing to complain about', async (t) => {
  t.deepEqual(await listDevices(), [])
  t.false(existsSync('/dev/ublkb0'))
  const complaints = (await run('dmesg')).split('\n').filter((line) => /\b(BUG|Oops|WARNING|hung_task|blocked for more than)\b/.test(line))
  t.deepEqual(complaints, [])
})
