/**
 * What is laid on top of a device: file systems whose server is killed meanwhile, swap, partitions, dm-crypt, LVM.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, open, readFile, rmdir, truncate, writeFile } from 'node:fs/promises'
import path from 'node:path'
import process from 'node:process'
import test, { type ExecutionContext } from 'ava'
import { type Device, deleteDevice, deviceInfo, file, memory, type Recovery, recoverDevice } from '../../src/index.ts'
import type { Order } from './recovery-server.ts'
import { run, until, withDevice, withDirectory, withMount } from './support.ts'

const MIB = 1 << 20
const LIMIT_MS = 60_000

/** `mend`: what an administrator runs on a file system whose device has failed requests; ext4 answers 1 when it has mended something. */
interface FileSystem {
  make: string[]
  mend: string[]
  check: string[]
}

const filesystems: Record<string, FileSystem> = {
  ext4: { make: ['mkfs.ext4', '-q', '-F'], mend: ['sh', '-c', 'fsck.ext4 -p "$0" || test $? -eq 1'], check: ['fsck.ext4', '-f', '-n'] },
  // These two replay their logs when they are mounted.
  xfs: { make: ['mkfs.xfs', '-q', '-f'], mend: ['true'], check: ['xfs_repair', '-n'] },
  btrfs: { make: ['mkfs.btrfs', '-q', '-f'], mend: ['true'], check: ['btrfs', 'check', '--readonly'] },
}
/** mkfs.xfs takes no less than 300 MiB. */
const SIZE = 304 * MIB

const on = (device: string, [program = '', ...args]: string[]): Promise<string> => run(program, ...args, device)
const sum = (data: Buffer): string => createHash('md5').update(data).digest('hex')

/** A server process of its own; resolves when its device is live. */
async function serve(t: ExecutionContext, image: string, recovery: Recovery): Promise<{ server: ChildProcess; id: number }> {
  // Slow where the request that is open when it is killed is to fail: of a file, or one that the file system sends again.
  const where = recovery === 'requeue' ? 'slow file' : 'file'
  const order: Order = { where, path: image, size: SIZE, recovery, queues: 1 }
  const server = spawn(process.execPath, [new URL('./recovery-server.ts', import.meta.url).pathname, JSON.stringify(order)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => server.kill('SIGKILL'))
  for await (const line of server.stdout) {
    const id = /ready (\d+)/.exec(String(line))?.[1]
    if (id !== undefined) return { server, id: Number(id) }
  }
  throw new Error('the server ended before its device was live')
}

/** Requests that the server has. */
const isBusy = async (id: number): Promise<boolean> =>
  (await readFile(`/sys/block/ublkb${id}/inflight`, 'utf8')).split(/\s+/).some((count) => Number(count) > 0)

async function kill(server: ChildProcess): Promise<void> {
  server.kill('SIGKILL')
  await once(server, 'exit')
}

/** Writes files one after the other, each synced, until it is told to end. */
class SyncedFiles {
  readonly synced: number[] = []
  failed = 0
  #isOver = false
  #ended: Promise<void>
  #directory: string

  constructor(directory: string) {
    this.#directory = directory
    this.#ended = this.#write()
  }

  async #write(): Promise<void> {
    for (let number = 0; !this.#isOver; number++) {
      try {
        const handle = await open(path.join(this.#directory, String(number)), 'w')
        try {
          await handle.writeFile(SyncedFiles.content(number))
          await handle.sync()
        } finally {
          await handle.close()
        }
        this.synced.push(number)
      } catch {
        this.failed++
        await new Promise((resolve) => setTimeout(resolve, 10))
      }
    }
  }

  static content(number: number): Buffer {
    return Buffer.alloc(5000 + 977 * (number % 10), `file ${number}; `)
  }

  async end(): Promise<void> {
    this.#isOver = true
    await this.#ended
  }

  /** The files that were synced and are not there as they were written. */
  async lost(directory: string): Promise<number[]> {
    const lost: number[] = []
    for (const number of this.synced) {
      const found = await readFile(path.join(directory, String(number))).catch(() => Buffer.alloc(0))
      if (!found.equals(SyncedFiles.content(number))) lost.push(number)
    }
    return lost
  }
}

/** Kills the server of a mounted file system under load, and recovers. With `reissue` the load goes on; else the file system may give up. */
async function survivesKill(t: ExecutionContext, { make, mend, check }: FileSystem, recovery: Recovery, image: string): Promise<void> {
  await writeFile(image, '')
  await truncate(image, SIZE)
  const { server, id } = await serve(t, image, recovery)
  const block = `/dev/ublkb${id}`
  await on(block, make)
  let next: Device | undefined
  const files = await withMount(block, async (directory) => {
    const files = new SyncedFiles(directory)
    try {
      await until(async () => files.synced.length > 3 && (await isBusy(id)), LIMIT_MS)
      await kill(server)
      await until(async () => (await deviceInfo(id)).state === 'quiesced', LIMIT_MS)
      next = await recoverDevice(id, { backend: file(image) })
      const before = files.synced.length
      await until(() => files.failed > 0 || files.synced.length > before + 3, LIMIT_MS)
    } finally {
      await files.end()
    }
    return files
  })
  if (recovery === 'reissue') {
    t.is(files.failed, 0)
    await on(block, check)
  } else {
    await on(block, mend)
  }
  t.deepEqual(await withMount(block, (directory) => files.lost(directory)), [])
  await on(block, check)
  t.log(`${files.synced.length} files were synced, ${files.failed} failed`)
  await next?.close()
}

for (const [type, filesystem] of Object.entries(filesystems)) {
  for (const recovery of ['reissue', 'requeue'] as const) {
    test.serial(
      `${type}: kill -9 of the server of a mounted device with ${recovery}: what was synced is there, and the check is clean`,
      (t) => {
        t.timeout(240_000)
        return withDirectory(async (directory) => {
          const image = path.join(directory, 'image')
          await survivesKill(t, filesystem, recovery, image).finally(() => deleteLeftovers(t))
        })
      },
    )
  }
}

async function deleteLeftovers(t: ExecutionContext): Promise<void> {
  if (t.passed) return
  for (const id of [0, 1]) await deleteDevice(id).catch(() => undefined)
}

/** Fills more memory than its cgroup has with words that it knows, and looks at each twice. */
const HOG = `
import mmap, struct, sys
pages = int(sys.argv[1]) // 4096
memory = mmap.mmap(-1, pages * 4096)
word = lambda page, turn: struct.pack('<QQ', page * 2654435761 + turn, turn)
for turn in (1, 2):
    for page in range(pages):
        at = page * 4096 + 8 * (page % 500)
        if turn == 2 and memory[at:at + 16] != word(page, 1): sys.exit(f'page {page} came back wrong')
        memory[at:at + 16] = word(page, turn)
for page in range(pages):
    at = page * 4096 + 8 * (page % 500)
    if memory[at:at + 16] != word(page, 2): sys.exit(f'page {page} came back wrong')
`

async function withCgroup<T>(limits: Record<string, string>, use: (directory: string) => Promise<T>): Promise<T> {
  await writeFile('/sys/fs/cgroup/cgroup.subtree_control', '+memory')
  const directory = `/sys/fs/cgroup/stack-${process.pid}`
  await mkdir(directory)
  try {
    for (const [name, value] of Object.entries(limits)) await writeFile(path.join(directory, name), value)
    return await use(directory)
  } finally {
    await rmdir(directory)
  }
}

/** Runs the program above in that cgroup. */
const hog = (cgroup: string): Promise<string> =>
  run('sh', '-c', 'echo $$ >"$0/cgroup.procs" && exec python3 -c "$1" "$2"', cgroup, HOG, String(64 * MIB))

/** A directory for what is behind a swap device. Pages of ramfs are never swapped; those of tmpfs might be, to the very device that they are behind. */
const withRamfs = (use: (directory: string) => Promise<void>): Promise<void> =>
  withDirectory(async (directory) => {
    await run('mount', '-t', 'ramfs', 'none', directory)
    try {
      await use(directory)
    } finally {
      await run('umount', directory)
    }
  })

async function withSwap(t: ExecutionContext, block: string, use: (cgroup: string) => Promise<void>): Promise<void> {
  await run('mkswap', block)
  await run('swapon', block)
  try {
    await withCgroup({ 'memory.max': String(24 * MIB) }, use)
  } finally {
    await run('swapoff', block)
  }
  t.false((await readFile('/proc/swaps', 'utf8')).includes(block))
}

test.serial('swap: pages that a program gets back are as it left them, and swapoff brings home what is left', (t) => {
  t.timeout(120_000)
  return withRamfs((directory) =>
    withDevice({ backend: file({ path: path.join(directory, 'image'), size: 128 * MIB, create: true }) }, (device) =>
      withSwap(t, device.path, async (cgroup) => {
        await hog(cgroup)
        const { read, write } = device.stats().operations
        t.true(write.bytes > 40 * MIB, `${write.bytes} bytes were swapped out`)
        t.true(read.bytes > 40 * MIB, `${read.bytes} bytes were swapped in`)
      }),
    ),
  )
})

/** Bytes that were written to a device since it was made. */
const writtenTo = async (id: number): Promise<number> =>
  Number((await readFile(`/sys/block/ublkb${id}/stat`, 'utf8')).trim().split(/\s+/)[6]) * 512

test.serial('swap: a program whose pages are behind a server that is killed goes on with the next one', (t) => {
  t.timeout(240_000)
  return withRamfs(async (directory) => {
    const image = path.join(directory, 'image')
    await writeFile(image, '')
    await truncate(image, SIZE)
    const { server, id } = await serve(t, image, 'reissue')
    let next: Device | undefined
    await withSwap(t, `/dev/ublkb${id}`, async (cgroup) => {
      const program = hog(cgroup)
      try {
        await Promise.race([program, until(async () => (await writtenTo(id)) > 8 * MIB, LIMIT_MS)])
        await kill(server)
        await until(async () => (await deviceInfo(id)).state === 'quiesced', LIMIT_MS)
        next = await recoverDevice(id, { backend: file(image) })
        await program
        const { read, write } = next.stats().operations
        t.true(write.bytes > 8 * MIB, `${write.bytes} bytes were swapped out to the next server`)
        t.true(read.bytes > 40 * MIB, `${read.bytes} bytes were swapped in from it`)
      } catch (error) {
        // Without a device the program ends, and swapoff does not wait for its pages.
        await deleteDevice(id).catch(() => undefined)
        await program.catch(() => undefined)
        throw error
      }
    })
    await next?.close()
  })
})

test.serial('partitions: those that sfdisk makes appear, hold their data, and are there with the next device', (t) =>
  withDirectory(async (directory) => {
    const backend = file({ path: path.join(directory, 'image'), size: 32 * MIB, create: true })
    const data = Buffer.alloc(MIB, 'a partition; ')
    await withDevice({ backend }, async (device) => {
      await run('sh', '-c', 'printf ",8M\\n,\\n" | sfdisk -q --wipe always "$0"', device.path)
      await until(() => existsSync(`${device.path}p2`), LIMIT_MS)
      await writeFile(`${device.path}p2`, data)
      t.is((await run('blockdev', '--getsize64', `${device.path}p1`)).trim(), String(8 * MIB))
    })
    await withDevice({ backend }, async (device) => {
      await until(() => existsSync(`${device.path}p2`), LIMIT_MS)
      t.is(sum((await readFile(`${device.path}p2`)).subarray(0, MIB)), sum(data))
    })
  }),
)

/** Writes a file system with a file through `block`, and answers with what it must hold. */
async function fill(block: string): Promise<Buffer> {
  const data = Buffer.alloc(3 * MIB + 7, 'on top of it; ')
  await run('mkfs.ext4', '-q', '-F', block)
  await withMount(block, (directory) => writeFile(path.join(directory, 'data'), data))
  return data
}

const fileOn = (block: string): Promise<Buffer> => withMount(block, (directory) => readFile(path.join(directory, 'data')))

test.serial('dm-crypt: what a LUKS volume holds is there after it was closed and opened, and is not readable below', (t) =>
  withDirectory(async (directory) => {
    t.timeout(120_000)
    const key = path.join(directory, 'key')
    await writeFile(key, 'not a secret')
    // Few rounds: a key derivation for a person's password takes an emulated machine minutes.
    const quick = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000']
    await withDevice({ backend: memory({ size: 64 * MIB }) }, async (device) => {
      const crypt = `/dev/mapper/crypt${device.id}`
      const opens = (): Promise<string> => run('cryptsetup', 'open', '--key-file', key, device.path, path.basename(crypt))
      const closes = (): Promise<string> => run('cryptsetup', 'close', path.basename(crypt))
      await run('cryptsetup', 'luksFormat', '--batch-mode', '--type', 'luks2', ...quick, '--key-file', key, device.path)
      await opens()
      const data = await fill(crypt)
      await closes()
      t.false((await readFile(device.path)).includes('on top of it; '))
      await opens()
      t.true((await fileOn(crypt)).equals(data))
      await run('fsck.ext4', '-f', '-n', crypt)
      await closes()
    })
  }),
)

test.serial('LVM: a volume over two devices holds its data over deactivation', (t) =>
  withDirectory(async () => {
    t.timeout(120_000)
    const backend = memory({ size: 48 * MIB })
    await withDevice({ backend }, (one) =>
      withDevice({ backend }, async (two) => {
        await run('pvcreate', '-q', '-y', one.path, two.path)
        await run('vgcreate', '-q', 'stack', one.path, two.path)
        try {
          await run('lvcreate', '-q', '-y', '-n', 'volume', '--stripes', '2', '-l', '100%FREE', 'stack')
          const data = await fill('/dev/stack/volume')
          await run('vgchange', '-an', 'stack')
          t.false(existsSync('/dev/stack/volume'))
          await run('vgchange', '-ay', 'stack')
          t.true((await fileOn('/dev/stack/volume')).equals(data))
          await run('fsck.ext4', '-f', '-n', '/dev/stack/volume')
          for (const { path: device, stats } of [one, two].map((device) => ({ path: device.path, stats: device.stats() })))
            t.true(stats.operations.write.bytes > MIB, `${device} has a part of it`)
        } finally {
          await run('vgchange', '-an', 'stack')
          await run('vgremove', '-q', '-f', '-y', 'stack')
        }
      }),
    )
  }),
)
