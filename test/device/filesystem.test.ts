/**
 * File systems on devices: made, filled, unmounted, mounted again, checked; also after the device or the server was closed in between.
 */
import { createHash, randomBytes } from 'node:crypto'
import { open, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import test from 'ava'
import { type Device, type DeviceOptions, file, memory, worker } from '../../src/index.ts'
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

test.serial('discard and write-zeroes read back as zeroes and give space back', async (t) => {
  await withDirectory(async (directory) => {
    const image = path.join(directory, 'image')
    await withDevice({ backend: file({ path: image, size: 32 * MIB, create: true }) }, async (device) => {
      const handle = await open(device.path, 'r+')
      await handle.write(Buffer.alloc(8 * MIB, 0xaa), 0, 8 * MIB, 0)
      await handle.sync()
      await handle.close()
      const before = (await stat(image)).blocks
      await run('blkdiscard', '-o', 1 * MIB, '-l', 2 * MIB, device.path)
      await run('blkdiscard', '-z', '-o', 4 * MIB, '-l', 1 * MIB, device.path)
      const after = (await stat(image)).blocks
      t.true(after <= before - (2 * MIB) / 512, `${before} blocks before, ${after} after`)
      const content = await readFile(device.path)
      const expected = Buffer.alloc(8 * MIB, 0xaa)
        .fill(0, MIB, 3 * MIB)
        .fill(0, 4 * MIB, 5 * MIB)
      t.true(content.subarray(0, 8 * MIB).equals(expected))
    })
  })
})

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
