/**
 * What was acknowledged after a flush, or as FUA, is there after a power cut.
 *
 * The stack: a file target over an image, the image on an ext4, the ext4 on a disk whose write cache is ours. That disk keeps a
 * "durable" copy which only its flushes and FUA writes bring up to date; the copy is what a power cut leaves. So a flush
 * that is lost anywhere between the upper device and the disk shows as missing data, and nothing has to be believed.
 */
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import test from 'ava'
import { type Backend, file, zoned } from '../../src/index.ts'
import { run, withDevice, withDirectory, withMount } from './support.ts'

const MIB = 1 << 20
const DISK_BYTES = 96 * MIB
const IMAGE_BYTES = 32 * MIB

/** A disk with a volatile write cache. */
class CachedDisk {
  readonly #cached = Buffer.alloc(DISK_BYTES)
  readonly #durable = Buffer.alloc(DISK_BYTES)
  #dirty: Array<[offset: number, end: number]> = []
  flushes = 0

  readonly backend: Backend = {
    size: DISK_BYTES,
    supports: { fua: 'native' },
    read: (buffer, offset) => void this.#cached.copy(buffer, 0, offset, offset + buffer.length),
    write: (buffer, offset, request) => {
      buffer.copy(this.#cached, offset)
      if (request.fua) buffer.copy(this.#durable, offset)
      else this.#dirty.push([offset, offset + buffer.length])
    },
    flush: () => {
      this.flushes++
      for (const [offset, end] of this.#dirty) this.#cached.copy(this.#durable, offset, offset, end)
      this.#dirty = []
    },
  }

  /** The disk as a power cut at this moment leaves it. */
  afterPowerCut(): Backend {
    const bytes = Buffer.from(this.#durable)
    return {
      size: DISK_BYTES,
      read: (buffer, offset) => void bytes.copy(buffer, 0, offset, offset + buffer.length),
      write: (buffer, offset) => void buffer.copy(bytes, offset),
    }
  }
}

/** Writes one block to the device, made durable as dd says. */
async function writeBlock(device: string, block: Buffer, index: number, how: 'fsync' | 'dsync', directory: string): Promise<void> {
  const source = path.join(directory, 'block')
  await writeFile(source, block)
  const durable = how === 'fsync' ? ['conv=notrunc,fsync'] : ['oflag=direct,dsync', 'conv=notrunc']
  await run('dd', `if=${source}`, `of=${device}`, `bs=${block.length}`, `seek=${index}`, 'status=none', ...durable)
}

for (const direct of [false, true]) {
  for (const how of ['fsync', 'dsync'] as const) {
    test.serial(`${direct ? 'direct' : 'buffered'} file, ${how}: acknowledged blocks survive a power cut`, async (t) => {
      t.timeout(180_000)
      const disk = new CachedDisk()
      const blocks = Array.from({ length: 6 }, () => randomBytes(4096))
      await withDirectory(async (directory) => {
        let cut: Backend | undefined
        await withDevice({ backend: disk.backend }, async (lower) => {
          await run('mkfs.ext4', '-q', '-F', lower.path)
          await withMount(lower.path, async (mount) => {
            const image = path.join(mount, 'image')
            await withDevice({ backend: file({ path: image, size: IMAGE_BYTES, create: true, direct }) }, async (upper) => {
              // The file's own size is made durable with the first block; then each block by itself.
              for (const [index, block] of blocks.entries()) {
                await writeBlock(upper.path, block, 17 * index, how, directory)
              }
              cut = disk.afterPowerCut()
            })
          })
        })
        t.true(disk.flushes > 0, 'no flush reached the disk')
        await withDevice({ backend: cut as Backend }, async (lower) => {
          await withMount(lower.path, async (mount) => {
            const options = { backend: file({ path: path.join(mount, 'image'), readOnly: true }) }
            await withDevice(options, async (upper) => {
              for (const [index, block] of blocks.entries()) {
                const out = path.join(directory, 'read')
                await run('dd', `if=${upper.path}`, `of=${out}`, 'bs=4096', `skip=${17 * index}`, 'count=1', 'iflag=direct', 'status=none')
                await run('cmp', out, await saved(directory, block))
              }
            })
          })
        })
        t.pass()
      })
    })
  }
}

async function saved(directory: string, block: Buffer): Promise<string> {
  const expected = path.join(directory, 'expected')
  await writeFile(expected, block)
  return expected
}

for (const how of ['fsync', 'dsync'] as const) {
  test.serial(`zoned file, ${how}: acknowledged blocks survive a power cut, and the write pointers cover them`, async (t) => {
    t.timeout(180_000)
    const disk = new CachedDisk()
    const zones = { size: IMAGE_BYTES, zoneSize: MIB }
    const durable = how === 'fsync' ? 'conv=notrunc,fsync' : 'conv=notrunc'
    const flags = how === 'fsync' ? 'oflag=direct' : 'oflag=direct,dsync'
    let cut: Backend | undefined
    await withDirectory(async (directory) => {
      const source = path.join(directory, 'block')
      await writeFile(source, randomBytes(8192))
      await withDevice({ backend: disk.backend }, async (lower) => {
        await run('mkfs.ext4', '-q', '-F', lower.path)
        await withMount(lower.path, async (mount) => {
          await withDevice({ backend: zoned({ path: path.join(mount, 'image'), ...zones }) }, async (upper) => {
            for (const zone of [3, 4, 5, 6]) {
              await run('dd', `if=${source}`, `of=${upper.path}`, 'bs=8192', `seek=${zone * 128}`, 'status=none', durable, flags)
            }
            await run('blkzone', 'reset', '-o', '8192', '-c', '1', upper.path)
            await run('blkzone', 'finish', '-o', '12288', '-c', '1', upper.path)
            cut = disk.afterPowerCut()
          })
        })
      })
      await withDevice({ backend: cut as Backend }, async (lower) => {
        await withMount(lower.path, async (mount) => {
          await withDevice({ backend: zoned({ path: path.join(mount, 'image'), ...zones }) }, async (upper) => {
            const report = (await run('blkzone', 'report', '-o', '6144', '-c', '4', upper.path)).trim().split('\n')
            const states = report.map((line) => line.replace(/^.*wptr (0x\w+) .*zcond: *\d+\((\w+)\).*$/, '$2 $1'))
            t.deepEqual(states, ['cl 0x000010', 'em 0x000000', 'cl 0x000010', 'fu 0x000800'])
            for (const zone of [3, 5, 6]) {
              const out = path.join(directory, 'read')
              await run('dd', `if=${upper.path}`, `of=${out}`, 'bs=8192', `skip=${zone * 128}`, 'count=1', 'iflag=direct', 'status=none')
              await run('cmp', out, source)
            }
          })
        })
      })
    })
  })
}

test.serial('the method sees a lost flush: without one the block is gone', async (t) => {
  const disk = new CachedDisk()
  const lost: Backend = { ...disk.backend, supports: { fua: 'native' }, flush() {} } // negative control: says "flushed" and is not
  await withDevice({ backend: lost }, async (device) => {
    await run('dd', 'if=/dev/urandom', `of=${device.path}`, 'bs=4096', 'count=1', 'conv=notrunc,fsync', 'status=none')
  })
  const block = Buffer.alloc(4096)
  disk.afterPowerCut().read(block, 0, {} as never)
  t.true(block.equals(Buffer.alloc(4096)))
})
