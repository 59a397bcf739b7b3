/**
 * Makes the backends of the matrix's targets.
 */
import { mkdir, truncate, writeFile } from 'node:fs/promises'
import path from 'node:path'
import {
  type DeviceOptions,
  fault,
  file,
  memory,
  mirror,
  nbd,
  nullTarget,
  stripe,
  worker,
  type ZonedOptions,
  zoned,
} from '../../src/index.ts'
import { memoryBackend, run } from '../device/support.ts'
import { SHARED_MEMORY, type TargetName } from './table.ts'

/** A backend with the file that it serves, and what else its device is made with. */
export interface Made extends Pick<DeviceOptions, 'backend' | 'integrity'> {
  image?: string
}

const sharedMemory = (size: number, options: object): Made => ({
  backend: worker(new URL('../device/shared-memory-backend.ts', import.meta.url), {
    options: { store: new SharedArrayBuffer(size), ...options },
  }),
})

const legs = (directory: string): string[] => [path.join(directory, 'one'), path.join(directory, 'two')]

const imageFile = (size: number, directory: string, direct: boolean): Made => {
  const image = path.join(directory, 'image')
  return { backend: file({ path: image, size, create: true, direct }), image }
}

export const makeTarget: Record<TargetName, (size: number, directory: string) => Made | Promise<Made>> = {
  null: (size) => ({ backend: nullTarget({ size }) }),
  mem: (size) => ({ backend: memory({ size }) }),
  file: (size, directory) => imageFile(size, directory, false),
  'file, direct': (size, directory) => imageFile(size, directory, true),
  'file with integrity': (size, directory) => ({
    ...imageFile(size, directory, false),
    integrity: { csum: 't10dif', reftag: true },
  }),
  'block device': async (size) => {
    const image = await loopDevice(size)
    return { backend: file({ path: image, size }), image }
  },
  stripe: (size, directory) => ({ backend: stripe({ paths: legs(directory), size: (size >> 16) << 16, create: true }) }),
  mirror: (size, directory) => ({ backend: mirror({ paths: legs(directory), size, create: true }) }),
  nbd: async (size) => {
    const image = path.join(EXPORTS, String(size))
    await mkdir(EXPORTS, { recursive: true })
    await sparseFile(image, size)
    return { backend: nbd(`nbd+unix:///${size}?socket=${await nbdServer()}`), image }
  },
  'zoned, memory': () => ({ backend: zoned(ZONES) }),
  'zoned, file': (_, directory) => {
    const image = path.join(directory, 'image')
    return { backend: zoned({ ...ZONES, path: image }), image }
  },
  // A delay so short that it only makes the requests go the layer's way.
  'fault over mem': (size) => ({ backend: fault(memory({ size }), { delayMs: 0.01 }) }),
  'JavaScript, main thread': (size) => ({ backend: memoryBackend(size) }),
  'JavaScript, worker': (size) => sharedMemory(size, { later: true }),
  'JavaScript, synchronous worker': (size) => sharedMemory(size, { sync: true }),
}

/** Eight zones for each thread of the checker. They are written by several requests, and have a rest that takes none. */
const ZONES: ZonedOptions = { size: '3MiB', zoneSize: '128KiB', zoneCapacity: '96KiB', conventionalZones: 2 }

/** The files that the NBD server exports, by their names. */
const EXPORTS = '/run/matrix-exports'
let server: Promise<string> | undefined

/** An NBD server for the life of the machine; its socket. */
function nbdServer(): Promise<string> {
  server ??= startNbdServer('/run/matrix-nbd.sock')
  return server
}

/** Returns when it listens: it goes into the background then. */
async function startNbdServer(socket: string): Promise<string> {
  await run('nbdkit', '--unix', socket, 'file', `dir=${EXPORTS}`)
  return socket
}

const loops = new Map<number, Promise<string>>()

/** A loop device for each size, for the life of the machine. */
function loopDevice(size: number): Promise<string> {
  const made = loops.get(size) ?? makeLoop(size)
  loops.set(size, made)
  return made
}

/** On ext4, which can do with a range all that a loop device asks of its file; memory's file system cannot. */
async function makeLoop(size: number): Promise<string> {
  const directory = `/var/tmp/matrix-${size}`
  await mkdir(directory)
  await sparseFile(`${directory}.ext4`, 64 << 20)
  await run('mkfs.ext4', '-q', `${directory}.ext4`)
  await run('mount', '-o', 'loop', `${directory}.ext4`, directory)
  await sparseFile(`${directory}/image`, size)
  return (await run('losetup', '--find', '--show', `${directory}/image`)).trim()
}

async function sparseFile(image: string, size: number): Promise<void> {
  await writeFile(image, '')
  await truncate(image, size)
}

/** The huge pages of SHARED_MEMORY: one for each thread of the checker. */
export async function makeSharedMemory(): Promise<void> {
  const pages = 6
  const directory = path.dirname(SHARED_MEMORY)
  await writeFile('/proc/sys/vm/nr_hugepages', String(pages))
  await mkdir(directory)
  await run('mount', '-t', 'hugetlbfs', 'none', directory)
  await writeFile(SHARED_MEMORY, '')
  await truncate(SHARED_MEMORY, pages << 21)
}
