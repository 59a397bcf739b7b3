/**
 * Lets a group use a volume (VOLUME_MOUNT_GROUP, the fsGroup of a pod): ext, xfs and btrfs have no option for that, so the files are given to it.
 */
import { chmod, lchown, lstat, opendir } from 'node:fs/promises'
import { join } from 'node:path'

const GROUP_DIRECTORY = 0o2070
const GROUP_FILE = 0o060

/** Does nothing where the root is the group's already: then all has been given before. */
export async function giveToGroup(root: string, group: number, signal: AbortSignal): Promise<void> {
  const { gid, mode } = await lstat(root)
  if (gid === group && (mode & GROUP_DIRECTORY) === GROUP_DIRECTORY) return
  await giveBelow(root, group, signal)
  // The root comes last: it says that the rest is done.
  await giveOne(root, group)
}

async function giveBelow(directory: string, group: number, signal: AbortSignal): Promise<void> {
  for await (const entry of await opendir(directory)) {
    signal.throwIfAborted()
    const path = join(directory, entry.name)
    if (entry.isDirectory()) await giveBelow(path, group, signal)
    await giveOne(path, group)
  }
}

async function giveOne(path: string, group: number): Promise<void> {
  const status = await lstat(path)
  await lchown(path, status.uid, group)
  // A link has no rights of its own, and what it points at may be elsewhere.
  if (status.isSymbolicLink()) return
  await chmod(path, (status.mode & 0o7777) | (status.isDirectory() ? GROUP_DIRECTORY : GROUP_FILE))
}
