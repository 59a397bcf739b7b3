/**
 * File systems on devices: made, filled, unmounted, mounted again, checked; also after the device or the server was closed in between.
 */
import { createHash, randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { open, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import path from 'node:path'
import test from 'ava'
import { type Backend, type Device, type DeviceOptions, file, memory, worker } from '../../src/index.ts'
import { memoryBackend, run, withDevice, withDirectory, withMount } from './support.ts'

const MIB = 1 << 20

const filesystems = {
  ext4: { deviceBytes: 64 * MIB, make: ['mkfs.ext4', '-q', '-F'], check: ['fsck.ext4', '-f', '-n'] },
  // mkfs.xfs takes no less than 300 MiB.
  xfs: { deviceBytes: 304 * MIB, make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'] },
}

type MakeBackend = (size: number, directory: string) => DeviceOptions['backend']
const backends: Record<string, MakeBackend> = {
  mem: (size) => memory({ size }),
  file: (size, directory) => file({ path: path.join(directory, 'image'), size, create: true }),
  'js main': (size) => memoryBackend(size),
  'js worker': (size) =>
    worker(new URL('./shared-memory-backend.ts', import.meta.url), { options: { store: new SharedArrayBuffer(size) } }),
}

const md5 = (data: Buffer): string => createHash('md5').update(data).digest('hex')

async function writeFiles(directory: string): Promise<Map<string, string>> {
  const sums = new Map<string, string>()
  for (const [index, bytes] of [1, 511, 4096, 70_001, 3 * MIB + 7].entries()) {
    const data = randomBytes(bytes)
    await writeFile(path.join(directory, `file-${index}`), data)
    sums.set(`file-${index}`, md5(data))
  }
  return sums
}

async function readSums(directory: string): Promise<Map<string, string>> {
  const names = (await readdir(directory)).filter((name) => name.startsWith('file-')).sort()
  const sums = new Map<string, string>()
  for (const name of names) sums.set(name, md5(await readFile(path.join(directory, name))))
  return sums
}

for (const [name, makeBackend] of Object.entries(backends)) {
  for (const [type, { deviceBytes, make, check }] of Object.entries(filesystems)) {
    test.serial(`${type} on ${name}: files survive a remount and the check is clean`, async (t) => {
      t.timeout(240_000)
      const runOn = (device: Device, [program, ...args]: string[]) => run(program as string, ...args, device.path)
      await withDirectory((directory) =>
        withDevice({ backend: makeBackend(deviceBytes, directory), queues: name === 'mem' ? 2 : 1 }, async (device) => {
          await runOn(device, make)
          const written = await withMount(device.path, writeFiles)
          t.deepEqual(await withMount(device.path, readSums), written)
          await runOn(device, check)
        }),
      )
    })
  }
}

test.serial('a file target keeps its file system over close and a new device', async (t) => {
  await withDirectory(async (directory) => {
    const options = { backend: file({ path: path.join(directory, 'image'), size: 64 * MIB, create: true }) }
    const written = await withDevice(options, async (device) => {
      await run('mkfs.ext4', '-q', '-F', device.path)
      return withMount(device.path, writeFiles)
    })
    const image = file(path.join(directory, 'image'))
    for (const blockSize of [512, 1024]) {
      await withDevice({ backend: image, blockSize }, async (device) => {
        await run('fsck.ext4', '-f', '-n', device.path)
        t.deepEqual(await withMount(device.path, readSums), written)
      })
    }
  })
})

/** Fills 8 MiB, discards 2 of them, writes zeroes over another, and reads all from the backend again. Returns what is there and was expected. */
async function clearRanges(device: Device, beforeClearing = async (): Promise<void> => {}): Promise<[content: Buffer, expected: Buffer]> {
  const full = Buffer.alloc(8 * MIB, 0xaa)
  const handle = await open(device.path, 'r+')
  await handle.write(full, 0, full.length, 0)
  await handle.sync()
  await handle.close()
  await beforeClearing()
  await run('blkdiscard', '-o', 1 * MIB, '-l', 2 * MIB, device.path)
  await run('blkdiscard', '-z', '-o', 4 * MIB, '-l', 1 * MIB, device.path)
  await run('blockdev', '--flushbufs', device.path)
  const content = (await readFile(device.path)).subarray(0, full.length)
  return [content, full.fill(0, MIB, 3 * MIB).fill(0, 4 * MIB, 5 * MIB)]
}

for (const [name, makeBackend] of Object.entries(backends)) {
  test.serial(`discard and write-zeroes on ${name}: these ranges read back as zeroes, and no others`, async (t) => {
    await withDirectory((directory) =>
      withDevice({ backend: makeBackend(16 * MIB, directory) }, async (device) => {
        const [content, expected] = await clearRanges(device)
        t.true(content.equals(expected))
        // The kernel sent them as such, and did not write zeroes itself.
        const { discard, writeZeroes } = device.stats().operations
        t.true(discard.requests > 0 && writeZeroes.requests > 0)
      }),
    )
  })
}

test.serial('a discard gives the space of a file back', async (t) => {
  await withDirectory(async (directory) => {
    const image = path.join(directory, 'image')
    await withDevice({ backend: file({ path: image, size: 16 * MIB, create: true }) }, async (device) => {
      const blocks = async (): Promise<number> => (await stat(image)).blocks
      let before = 0
      await clearRanges(device, async () => {
        before = await blocks()
      })
      const after = await blocks()
      t.true(after <= before - (2 * MIB) / 512, `${before} blocks before, ${after} after`)
    })
  })
})

/** A backend that cannot write. */
const readOnlyBackend = (size: number): Backend => ({ size, read: (buffer) => void buffer.fill(0) })
const readOnlyDevices: Record<string, (directory: string) => Promise<DeviceOptions>> = {
  'mem with readOnly': async () => ({ backend: memory({ size: MIB }), readOnly: true }),
  'file opened for reading': async (directory) => {
    await writeFile(path.join(directory, 'image'), Buffer.alloc(MIB))
    return { backend: file({ path: path.join(directory, 'image'), readOnly: true }) }
  },
  'js main without write': async () => ({ backend: readOnlyBackend(MIB) }),
}

for (const [name, options] of Object.entries(readOnlyDevices)) {
  test.serial(`${name}: a write is refused`, async (t) => {
    await withDirectory(async (directory) =>
      withDevice(await options(directory), async (device) => {
        t.is((await run('blockdev', '--getro', device.path)).trim(), '1')
        const write = async (): Promise<void> => {
          const handle = await open(device.path, 'r+')
          await handle.write(Buffer.alloc(4096, 1), 0, 4096, 0).finally(() => handle.close())
        }
        // From open or from write: kernels differ.
        const { code } = (await t.throwsAsync(write())) as NodeJS.ErrnoException
        t.true(['EPERM', 'EACCES', 'EROFS'].includes(String(code)), code)
        t.true((await readFile(device.path)).equals(Buffer.alloc(MIB)))
        t.is(device.stats().operations.write.requests, 0)
      }),
    )
  })
}

/** CPUs that the thread of one queue may run on, as the kernel writes them: a list with ranges. */
function allowedCpus({ id }: Device, queue: number): string | undefined {
  for (const task of readdirSync('/proc/self/task')) {
    try {
      const status = readFileSync(`/proc/self/task/${task}/status`, 'utf8')
      if (status.startsWith(`Name:\tublk${id}q${queue}\n`)) return /^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1]
    } catch {
      // Another thread, which ended meanwhile.
    }
  }
  return undefined
}

for (const name of ['mem', 'js main'] as const) {
  test.serial(`${name}: queue threads run on the CPUs that were asked for`, async (t) => {
    const last = cpus().length - 1
    const queues = name === 'mem' ? 2 : 1
    for (const wanted of [[0], [last], [last, 0]]) {
      const backend = (backends[name] as MakeBackend)(MIB, '')
      await withDevice({ backend, queues, cpus: wanted }, async (device) => {
        for (let queue = 0; queue < queues; queue++) {
          t.is(allowedCpus(device, queue), String(wanted[queue % wanted.length]), `queue ${queue} of cpus ${wanted}`)
        }
      })
    }
  })
}

test.serial('memory comes with the first write and goes with the discard', async (t) => {
  const resident = async (): Promise<number> => process.memoryUsage.rss()
  await withDevice({ backend: memory({ size: '1TiB' }) }, async (device) => {
    const before = await resident()
    await run('dd', 'if=/dev/zero', `of=${device.path}`, 'bs=1M', 'count=128', 'seek=500000', 'oflag=direct', 'status=none')
    const full = await resident()
    t.true(full - before > 120 * MIB, `${full - before} bytes came with 128 MiB`)
    await run('blkdiscard', '-o', 500_000 * MIB, '-l', 128 * MIB, device.path)
    const discarded = await resident()
    t.true(discarded - before < 16 * MIB, `${discarded - before} bytes stayed`)
  })
})
