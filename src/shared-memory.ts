/**
 * Files of memory that a device's users share with its server: how they are given, and what a device says of them.
 *
 * Thread: any.
 */
import { resolve } from 'node:path'
import type { DataPath } from './data-path.ts'
import { invalidType, invalidValue, outOfRange } from './errors.ts'
import type { DeviceSpec, NativeSharedMemory, SharedMemorySpec } from './native.ts'

/** A file of memory that a device's users share with its server: its path, or that and how it is mapped. */
export type SharedMemory = string | { path: string; readOnly?: boolean }

/** A file of memory that a device's users share with it now. */
export interface SharedMemoryInfo {
  /** Absolute. */
  path: string
  /** It serves writes to the device alone. */
  readOnly: boolean
  /** Bytes. */
  size: number
  /** By which the driver names it. */
  number: number
  /** Which file it is, whatever lies under its path later: the numbers of its device and inode. */
  fileId: string
}

/**
 * The same of a device whose server is gone, as that one had it: the driver knows the pages and cannot tell which files they are of.
 *
 * An empty `fileId` is of memory that the former server was letting go of: the driver may have it still, and is told to forget it.
 */
export type FormerMemory = Pick<SharedMemoryInfo, 'path' | 'readOnly' | 'number' | 'fileId'>

/** As crates/ublk/src/shared_memory.rs has it. */
const MOST_SHARED = 1024

export function toSharedMemoryInfo({ path, readOnly, sizeBytes, number, fileId }: NativeSharedMemory): SharedMemoryInfo {
  return { path, readOnly, size: sizeBytes, number, fileId }
}

/** The option, and the data path that it makes. */
export function checkSharedMemory(
  given: SharedMemory | SharedMemory[] | undefined,
  dataPath: DataPath,
): Pick<DeviceSpec, 'dataPath' | 'sharedMemory'> {
  if (given === undefined) return { dataPath, sharedMemory: [] }
  const sharedMemory = (Array.isArray(given) ? given : [given]).map(checkMemory)
  const paths = sharedMemory.map(({ path }) => path)
  const twice = paths.find((path, index) => paths.indexOf(path) !== index)
  if (twice !== undefined) throw invalidValue('sharedMemory', 'of files that are given once', twice)
  if (dataPath !== 'auto' && dataPath !== 'shmem')
    throw invalidValue('sharedMemory', "left out unless dataPath is 'shmem' or 'auto'", paths)
  return { dataPath: 'shmem', sharedMemory }
}

/** One file of it. */
export function checkMemory(given: SharedMemory): SharedMemorySpec {
  const { path, readOnly = false } = typeof given === 'object' && given !== null ? given : { path: given }
  if (typeof path !== 'string') throw invalidType('sharedMemory', 'the path of a file, or { path, readOnly }', given)
  if (path === '') throw invalidValue('sharedMemory', 'the path of a file', path)
  if (typeof readOnly !== 'boolean') throw invalidType('sharedMemory.readOnly', 'a boolean', readOnly)
  return { path: resolve(path), readOnly, number: null, fileId: null }
}

/** What a device that is recovered had. */
export function checkFormerMemory(given: FormerMemory[] | undefined, dataPath: DataPath): SharedMemorySpec[] {
  if (given === undefined) return []
  if (!Array.isArray(given)) throw invalidType('sharedMemory', 'an array, as `device.sharedMemory()` gives it', given)
  if (given.length > 0 && dataPath !== 'shmem')
    throw invalidValue('sharedMemory', `left out for a device that moves its data by ${dataPath}`, given)
  return given.map((memory) => {
    const { number, fileId } = memory ?? {}
    if (typeof number !== 'number') throw invalidType('sharedMemory.number', 'a number', number)
    if (!Number.isInteger(number) || number < 0 || number >= MOST_SHARED)
      throw outOfRange('sharedMemory.number', `a whole number from 0 to ${MOST_SHARED - 1}`, number)
    if (typeof fileId !== 'string') throw invalidType('sharedMemory.fileId', 'a string', fileId)
    return { ...checkMemory(memory), number, fileId }
  })
}
