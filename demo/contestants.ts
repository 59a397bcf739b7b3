/**
 * The three devices of the demo: bytes from TypeScript, from memory in Rust, and from a file. The first two by the library, the third by
 * the command line.
 */
import { join } from 'node:path'
import { createDevice, type Device, type DeviceStats, memory } from 'ublk'
import { run } from './shell.ts'

const UBLK = join(import.meta.dirname, '..', 'cli', 'bin', 'run.js')

/** xfs wants 300 MB at least; what is not written costs nothing. */
export const SIZE = '320MiB'

/** A live device. */
export interface Live {
  id: number
  path: string
  stats(): Promise<DeviceStats>
  remove(): Promise<void>
}

export interface Contestant {
  name: string
  how: string
  fileSystem: 'ext4' | 'xfs'
  /** @param folder for files, empty, removed at the end */
  add(folder: string, signal: AbortSignal): Promise<Live>
}

export const contestants: Contestant[] = [
  {
    name: 'TypeScript',
    how: 'examples/memory.ts, run in a worker by the library',
    fileSystem: 'ext4',
    add: async (_, signal) => {
      const module = new URL('../examples/memory.ts', import.meta.url)
      return byLibrary(await createDevice({ backend: module, backendOptions: { size: SIZE }, closeOnSignal: false, signal }))
    },
  },
  {
    name: 'Rust memory',
    how: 'memory(), by the library',
    fileSystem: 'xfs',
    add: async (_, signal) => byLibrary(await createDevice({ backend: memory({ size: SIZE }), closeOnSignal: false, signal })),
  },
  {
    name: 'file',
    how: 'an image file, by the command `ublk`',
    fileSystem: 'ext4',
    add: async (folder, signal) => byCommand(['file', join(folder, 'disk.img'), '--create', '--size', SIZE], signal),
  },
]

function byLibrary(device: Device): Live {
  return {
    id: device.id,
    path: device.path,
    stats: async () => device.stats(),
    remove: () => device.close(),
  }
}

async function byCommand(target: string[], signal: AbortSignal): Promise<Live> {
  const ublk = (args: string[], stop?: AbortSignal): Promise<string> => run(process.execPath, [UBLK, ...args], stop)
  const path = (await ublk(['add', ...target], signal)).trim()
  const id = Number(path.replace('/dev/ublkb', ''))
  return {
    id,
    path,
    stats: async () => JSON.parse(await ublk(['stats', String(id), '--json'])) as DeviceStats,
    remove: async () => void (await ublk(['del', String(id)])),
  }
}
