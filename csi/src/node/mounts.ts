/**
 * Mounting and unmounting, and looking at what is mounted. The table of the kernel is the only memory: nothing here can disagree with it.
 */

import { constants } from 'node:fs'
import { lstat, mkdir, open, readFile, rmdir, stat, unlink } from 'node:fs/promises'
import { basename } from 'node:path'
import { internal } from '../errors.ts'
import { type RunProgram, runProgram } from '../run-program.ts'
import { type Mount, parseMountinfo } from './mountinfo.ts'

const MOUNT_LIMIT_MS = 120_000
const SYNC_LIMIT_MS = 60_000

export class Mounts {
  readonly #run: RunProgram
  readonly #table: string

  constructor(run: RunProgram = runProgram, table = '/proc/self/mountinfo') {
    this.#run = run
    this.#table = table
  }

  async list(): Promise<Mount[]> {
    return parseMountinfo(await readFile(this.#table, 'utf8'))
  }

  /** What is on top at a path, or undefined. */
  async at(path: string): Promise<Mount | undefined> {
    return (await this.list()).findLast((mount) => mount.path === path)
  }

  /** Every mount of a disk's file system, and every place its device node is bound to. */
  async ofDevice(devicePath: string): Promise<Mount[]> {
    const number = await deviceNumber(devicePath)
    return (await this.list()).filter((mount) => isOfDevice(mount, devicePath, number))
  }

  /** Every mount of the file system that is on top at a path, that one among them; none where nothing is mounted. */
  async sharing(path: string): Promise<Mount[]> {
    const found = await this.at(path)
    return found === undefined ? [] : (await this.list()).filter(({ device }) => device === found.device)
  }

  /** Whether somebody holds a disk for himself: a mount in any namespace, device mapper, a file system being made. */
  async isHeld(devicePath: string): Promise<boolean> {
    try {
      await (await open(devicePath, constants.O_RDONLY | constants.O_EXCL)).close()
      return false
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EBUSY') return true
      throw error
    }
  }

  /** Mounts a disk at an existing directory, and looks whether it is there. */
  async mount(devicePath: string, path: string, filesystem: string, options: string[], signal: AbortSignal): Promise<void> {
    const how = options.length === 0 ? [] : ['-o', options.join(',')]
    await this.#run('mount', ['-t', filesystem, ...how, devicePath, path], { signal, limitMs: MOUNT_LIMIT_MS })
    const found = await this.at(path)
    if (found === undefined || !isOfDevice(found, devicePath, await deviceNumber(devicePath))) {
      throw internal(`${path} is not a mount of ${devicePath} after mounting; nothing may be written there`)
    }
  }

  /** Makes `source` appear at `path` too. Read-only takes a second step: the first ignores it. */
  async bind(source: string, path: string, readOnly: boolean, signal: AbortSignal): Promise<void> {
    await this.#run('mount', ['--bind', source, path], { signal, limitMs: MOUNT_LIMIT_MS })
    if (!readOnly) return
    try {
      await this.#run('mount', ['-o', 'remount,bind,ro', path], { signal, limitMs: MOUNT_LIMIT_MS })
    } catch (error) {
      // Not left writable.
      await this.unmount(path, AbortSignal.timeout(MOUNT_LIMIT_MS))
      throw error
    }
  }

  /** Writes what the file system at a path holds back. */
  async sync(path: string): Promise<void> {
    await this.#run('sync', ['-f', path], { limitMs: SYNC_LIMIT_MS })
  }

  /** Unmounts all that is stacked at a path. Not mounted is as good. */
  async unmount(path: string, signal: AbortSignal): Promise<void> {
    while ((await this.at(path)) !== undefined) {
      await this.#run('umount', [path], { signal, limitMs: MOUNT_LIMIT_MS })
    }
  }
}

/** Whether a mount shows a disk: its file system, or its node in /dev. */
function isOfDevice(mount: Mount, devicePath: string, number: string): boolean {
  if (mount.device === number) return true
  if (mount.filesystem === 'btrfs') return mount.source === devicePath
  return mount.filesystem === 'devtmpfs' && mount.root === `/${basename(devicePath)}`
}

/** `major:minor` of a device node, as mountinfo writes it. */
export async function deviceNumber(path: string): Promise<string> {
  const { rdev } = await stat(path)
  // The encoding of glibc's makedev: 12 bits of major and 20 of minor, interleaved.
  return `${(rdev >>> 8) & 0xfff}:${(rdev & 0xff) | ((rdev >>> 12) & 0xfff00)}`
}

/** Whether a file system does anything: xfs, once it has shut itself down, does not, and the table of mounts says nothing of it. */
export async function answers(path: string): Promise<boolean> {
  try {
    await stat(path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EIO') return false
    throw error
  }
}

/** A directory to mount at. Its parent must be there. */
export async function ensureDirectory(path: string): Promise<void> {
  await mkdir(path, { mode: 0o750 }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error
  })
}

/** An empty file to bind a device node to. */
export async function ensureFile(path: string): Promise<void> {
  await (await open(path, 'a', 0o660)).close()
}

/** Removes what a volume was shown at: an empty directory or a file that nothing is mounted at, never what is in it. */
export async function removeTarget(path: string): Promise<void> {
  const found = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
  })
  if (found === undefined) return
  await (found.isDirectory() ? rmdir(path) : unlink(path))
}
