/**
 * Data through every kind of backend, block size and queue count: fio writes checksummed blocks of 4 KiB to 4 MiB, aligned and not, up to
 * the last sector of a device whose size fits nothing, and reads them back.
 */
import path from 'node:path'
import process from 'node:process'
import test from 'ava'
import { type DeviceOptions, file, memory, worker } from '../../src/index.ts'
import { fioVerify, kernelFlags, memoryBackend, run, until, withDevice, withDirectory } from './support.ts'

const MIB = 1 << 20
/** Odd on purpose: the last request of any size is cut off. */
const sizeFor = (blockSize: number): number => 48 * MIB + 3 * blockSize

type MakeBackend = (sizeBytes: number, directory: string) => DeviceOptions['backend']
const sharedMemory = (options: object) => (sizeBytes: number) =>
  worker(new URL('./shared-memory-backend.ts', import.meta.url), { options: { store: new SharedArrayBuffer(sizeBytes), ...options } })

const backends: Record<string, MakeBackend> = {
  mem: (size) => memory({ size }),
  'file buffered': (size, directory) => file({ path: path.join(directory, 'image'), size, create: true }),
  'file direct': (size, directory) => file({ path: path.join(directory, 'image'), size, create: true, direct: true }),
  'js main': (size) => memoryBackend(size),
  'js worker sync': sharedMemory({ sync: true }),
  'js worker': sharedMemory({}),
  'js worker async': sharedMemory({ later: true }),
}

type Shape = [blockSize: number, queues: number]
/** Each block size and each number of queues, with each backend. */
const SHAPES: Shape[] = [
  [512, 1],
  [4096, 2],
]
/** The rest of each with each: for `make verify`. */
const OTHER_SHAPES: Shape[] = [
  [512, 2],
  [4096, 1],
]
const shapes = process.env.UBLK_ALL_SHAPES === undefined ? SHAPES : [...SHAPES, ...OTHER_SHAPES]

for (const [name, makeBackend] of Object.entries(backends)) {
  for (const [blockSize, queues] of shapes) {
    test.serial(`${name}, ${blockSize}-byte blocks, ${queues} queue(s): every byte comes back`, async (t) => {
      t.timeout(240_000)
      const size = sizeFor(blockSize)
      await withDirectory((directory) =>
        withDevice({ backend: makeBackend(size, directory), blockSize, queues, depth: 32, maxIoBytes: '1MiB' }, async (device) => {
          t.is(device.size, size)
          await fioVerify(device.path, { blockSize: '4k', jobs: queues, sizeBytes: 4 * MIB })
          await fioVerify(device.path, { blockSize: '4m', jobs: queues, sizeBytes: 24 * MIB })
          await fioVerify(device.path, { blockSize: `${blockSize}-1m`, sizeBytes: size })
          const { operations } = device.stats()
          t.true(operations.write.requests > 0)
          t.true(Object.values(operations).every(({ errors }) => errors === 0))
        }),
      )
    })
  }
}

for (const name of ['js main', 'js worker sync', 'js worker'] as const) {
  test.serial(`${name}: an idle device gives the memory of its buffers back, and loses nothing`, async (t) => {
    const size = 32 * MIB
    const backend = (backends[name] as MakeBackend)(size, '')
    await withDevice({ backend, depth: 32, maxIoBytes: '1MiB' }, async (device) => {
      const md5 = async () => (await run('sh', '-c', `dd if=${device.path} bs=1M iflag=direct status=none | md5sum`)).trim()
      // 16 requests at a time: as many MiB of buffers.
      await fioVerify(device.path, { blockSize: '1m', sizeBytes: size })
      const written = await md5()
      const busy = process.memoryUsage.rss()
      await until(() => process.memoryUsage.rss() < busy - 8 * MIB)
      t.is(await md5(), written)
      await fioVerify(device.path, { blockSize: '4k-1m', sizeBytes: 4 * MIB })
    })
  })
}

test.serial('zero-copy memory: every byte comes back, or an older kernel is named', async (t) => {
  const size = sizeFor(512)
  const options = { backend: memory({ size }), dataPath: 'auto-zero-copy' } as const
  if (!(await kernelFlags()).has('AUTO_BUF_REG')) {
    const refused = await t.throwsAsync(
      withDevice(options, async () => {}),
      { code: 'ERR_UBLK_UNSUPPORTED' },
    )
    t.regex(String((refused as { hint?: string }).hint), /6\.16/)
    return
  }
  await withDevice(options, async (device) => {
    await fioVerify(device.path, { blockSize: '512-1m', sizeBytes: size })
    t.is(device.dataPath, 'auto-zero-copy')
  })
})

for (const depth of [1, 4096]) {
  test.serial(`depth ${depth}: every byte comes back`, async (t) => {
    await withDevice({ backend: memory({ size: 16 * MIB }), depth, maxIoBytes: 4096 }, async (device) => {
      await fioVerify(device.path, { blockSize: '4k-64k', sizeBytes: 16 * MIB })
      t.is((await device.info()).depth, depth)
    })
  })
}

test.serial('requests of 32 MiB: every byte comes back', async (t) => {
  await withDevice({ backend: memory({ size: 96 * MIB }), depth: 4, maxIoBytes: '32MiB' }, async (device) => {
    await fioVerify(device.path, { blockSize: '32m', sizeBytes: 96 * MIB })
    t.is((await device.info()).maxIoBytes, 32 * MIB)
  })
})
