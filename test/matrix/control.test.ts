/**
 * The checker of the matrix finds what it is there for: a device that breaks one promise, once, is refused by the check of that operation.
 * Runs as root on a kernel with ublk.
 */
import path from 'node:path'
import test from 'ava'
import { type Backend, type DeviceOptions, file, zoned } from '../../src/index.ts'
import { memoryBackend, run, withDevice, withDirectory } from '../device/support.ts'
import { Checker } from './checker.ts'

const SIZE = (1 << 20) + 1536
const BLOCK = 512

/** Calls `fault` instead of the method at the n-th call. */
function once(
  method: 'read' | 'write' | 'discard' | 'writeZeroes',
  turn: number,
  fault: (args: unknown[], inner: Backend) => void,
): Backend {
  const inner: Backend = memoryBackend(SIZE)
  let calls = 0
  const call = (...args: unknown[]): unknown =>
    ++calls === turn ? fault(args, inner) : Reflect.apply(inner[method] as () => unknown, inner, args)
  return { ...inner, [method]: call }
}

/** The first that is longer than the pieces of which a discard promises something. */
function losesDiscard(): Backend {
  const inner: Backend = memoryBackend(SIZE)
  let isLost = false
  return {
    ...inner,
    discard(offset, length, request) {
      if (isLost || length < 16 << 10) return inner.discard?.(offset, length, request)
      isLost = true
    },
  }
}

const broken: Record<string, { operation: string; backend: () => Backend }> = {
  'one byte of one write is another': {
    operation: 'write',
    backend: () =>
      once('write', 60, ([data, offset, request], inner) => {
        const other = Buffer.from(data as Buffer)
        other[other.length >> 1] = (other[other.length >> 1] as number) ^ 1
        inner.write?.(other, offset as number, request as never)
      }),
  },
  'one write goes a block too far': {
    operation: 'write',
    backend: () =>
      once('write', 60, ([data, offset, request], inner) => {
        const last = SIZE - (data as Buffer).length
        inner.write?.(data as Buffer, Math.min((offset as number) + BLOCK, last), request as never)
      }),
  },
  'one durable write is lost': { operation: 'fua', backend: () => once('write', 60, () => undefined) },
  'one byte of one read is another': {
    operation: 'read',
    backend: () =>
      once('read', 40, ([data, offset, request], inner) => {
        inner.read(data as Buffer, offset as number, request as never)
        ;(data as Buffer)[0] = ((data as Buffer)[0] as number) ^ 1
      }),
  },
  'one discard is lost': { operation: 'discard', backend: losesDiscard },
  'one zeroing is lost': { operation: 'write-zeroes', backend: () => once('writeZeroes', 4, () => undefined) },
}

async function check(backend: DeviceOptions['backend'], ...lines: string[]): Promise<string[]> {
  return withDevice({ backend, depth: 16, maxIoBytes: '64KiB' }, async (device) => {
    const checker = new Checker()
    const answers: string[] = []
    for (const line of lines) {
      const [kind, ...rest] = line.split(' ')
      const answer = checker.check([kind, device.path, ...rest].join(' '), 60_000)
      answers.push(await answer.then(String, (error: Error) => error.message))
    }
    await checker.close()
    return answers
  })
}

test.serial('a device that keeps its promises passes', async (t) => {
  const answers = await check(
    memoryBackend(SIZE),
    ...['read', 'write', 'fua', 'discard', 'write-zeroes'].map((name) => `sequence ${name} data`),
  )
  t.deepEqual(answers, ['36', '36', '36', '36', '36'])
})

for (const [name, { operation, backend }] of Object.entries(broken)) {
  test.serial(`${name}: refused`, async (t) => {
    const [answer] = await check(backend(), `sequence ${operation} data`)
    t.regex(answer ?? '', /^seed 1, thread \d, .* is 0x/)
  })
}

test.serial('a history with one stale read is refused', async (t) => {
  const inner: Backend = memoryBackend(SIZE)
  const old = new Map<number, Buffer>()
  let reads = 0
  const backend: Backend = {
    ...inner,
    write(data, offset, request) {
      const previous = Buffer.alloc(data.length)
      inner.read(previous, offset, request)
      old.set(offset, previous)
      return inner.write?.(data, offset, request)
    },
    read(data, offset, request) {
      // Every block was written several times by now; nobody writes two of them at once all the time.
      const stale = ++reads >= 500 && reads < 520 ? old.get(offset) : undefined
      if (stale === undefined || stale.length !== data.length) return inner.read(data, offset, request)
      stale.copy(data)
    },
  }
  const [answer] = await check(backend, 'history operations=2000')
  t.regex(answer ?? '', /neither of the values/)
})

/** Checks writes to a zoned device through a layer of the kernel's that makes faults, as its table says. */
async function checkZones(faults: string): Promise<string> {
  const backend = zoned({ size: '3MiB', zoneSize: '128KiB', zoneCapacity: '96KiB', conventionalZones: 2 })
  return withDevice({ backend, depth: 16, maxIoBytes: '64KiB' }, async (device) => {
    const name = 'matrix-control'
    await run('modprobe', 'dm-flakey')
    await run('dmsetup', 'create', name, '--table', `0 ${(3 << 20) / 512} flakey ${device.path} 0 ${faults}`)
    const checker = new Checker()
    const answer = await checker.check(`zones /dev/mapper/${name} mixed`, 60_000).then(String, (error: Error) => error.message)
    await checker.close()
    await run('dmsetup', 'remove', '--retry', name)
    return answer
  })
}

const zonedFaults: Record<string, { faults: string; answer: RegExp }> = {
  'a zoned device without faults passes': { faults: '3600 0', answer: /^72$/ },
  'a zoned device that loses writes: refused': { faults: '0 3600 1 drop_writes', answer: /^seed 1, thread \d, / },
  'a zoned device that changes a byte of what is written: refused': {
    faults: '0 3600 5 corrupt_bio_byte 100 w 7 0',
    answer: /^seed 1, thread \d, .* is 0x07 and not 0x/,
  },
  'a zoned device that changes a byte of what is read: refused': {
    faults: '0 3600 5 corrupt_bio_byte 100 r 7 0',
    answer: /^seed 1, thread \d, .* is 0x07 and not 0x/,
  },
}

for (const [name, { faults, answer }] of Object.entries(zonedFaults)) {
  test.serial(name, async (t) => t.regex(await checkZones(faults), answer))
}

test.serial('a zoned device whose zones are told something behind the back of the checker is refused', async (t) => {
  const backend = zoned({ size: '3MiB', zoneSize: '128KiB' })
  await withDevice({ backend, depth: 16 }, async (device) => {
    const checker = new Checker()
    await checker.check(`zones ${device.path} read steps=1`, 60_000) // it is there now, and begins before the other program
    const answer = checker.check(`zones ${device.path} write steps=500`, 60_000).then(String, (error: Error) => error.message)
    await run('blkzone', 'reset', device.path)
    t.regex(await answer, /^seed 1, thread \d, /)
    await checker.close()
  })
})

test.serial('a device that believes what was changed below it is refused', async (t) => {
  await withDirectory(async (directory) => {
    const image = path.join(directory, 'image')
    const [answer] = await check(file({ path: image, size: SIZE, create: true }), `protection image=${image}`)
    t.regex(answer ?? '', /^seed 1, block at \d+: byte \d+ was changed, and the read succeeded$/)
  })
})
