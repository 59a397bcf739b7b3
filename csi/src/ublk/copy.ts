/**
 * Copies of image files: by reflink where the file system has it, which takes no time and no room, else byte by byte without the holes.
 */
import { constants } from 'node:fs'
import { copyFile, type FileHandle, open, rename, truncate, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { syncDirectory, unlessMissing } from './records.ts'

export interface CopyOptions {
  /** Size of the copy, at least the source's. */
  bytes: number
  onProgress(doneBytes: number): void
}

const CHUNK_BYTES = 1 << 20
/** What a hole looks like when it is read. Comparing costs less than the room that zeroes would take. */
const ZEROES = Buffer.alloc(CHUNK_BYTES)
const PART = '.part'

/** Resolves with whether the blocks are shared. The copy appears at `to` when all of it is on disk. */
export async function copyImage(from: string, to: string, options: CopyOptions): Promise<boolean> {
  const part = to + PART
  await unlink(part).catch(unlessMissing)
  const isShared = await reflink(from, part)
  if (!isShared) await copyData(from, part, options)
  await finishImage(part, to, options.bytes)
  return isShared
}

/** An image of zeroes. */
export async function emptyImage(path: string, bytes: number): Promise<void> {
  await (await open(path + PART, 'w', 0o600)).close()
  await finishImage(path + PART, path, bytes)
}

export async function removeImage(path: string): Promise<void> {
  await unlink(path + PART).catch(unlessMissing)
  await unlink(path).catch(unlessMissing)
  await syncDirectory(join(path, '..'))
}

async function finishImage(part: string, path: string, bytes: number): Promise<void> {
  await truncate(part, bytes)
  const file = await open(part, 'r+')
  try {
    await file.chmod(0o600)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(part, path)
  await syncDirectory(join(path, '..'))
}

/** Whether files of a directory can share blocks: tried. */
export async function canReflink(directory: string): Promise<boolean> {
  const [one, two] = [join(directory, '.reflink-a'), join(directory, '.reflink-b')]
  try {
    const file = await open(one, 'w', 0o600)
    await file.writeFile(ZEROES.subarray(0, 4096))
    await file.close()
    return await reflink(one, two)
  } finally {
    await unlink(one).catch(unlessMissing)
    await unlink(two).catch(unlessMissing)
  }
}

async function reflink(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to, constants.COPYFILE_FICLONE_FORCE)
    return true
  } catch (error) {
    await unlink(to).catch(unlessMissing)
    if (['ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EXDEV', 'EINVAL', 'ENOTTY'].includes((error as NodeJS.ErrnoException).code ?? '')) return false
    throw error
  }
}

async function copyData(from: string, to: string, { onProgress }: CopyOptions): Promise<void> {
  const source = await open(from, 'r')
  try {
    const target = await open(to, 'w', 0o600)
    try {
      await copyChunks(source, target, onProgress)
    } finally {
      await target.close()
    }
  } finally {
    await source.close()
  }
}

async function copyChunks(source: FileHandle, target: FileHandle, onProgress: (bytes: number) => void): Promise<void> {
  const buffer = Buffer.alloc(CHUNK_BYTES)
  for (let offset = 0; ; ) {
    const { bytesRead } = await source.read(buffer, 0, CHUNK_BYTES, offset)
    if (bytesRead === 0) return
    const chunk = buffer.subarray(0, bytesRead)
    if (!chunk.equals(ZEROES.subarray(0, bytesRead))) await target.write(chunk, 0, bytesRead, offset)
    offset += bytesRead
    onProgress(offset)
  }
}
