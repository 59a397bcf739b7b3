import { alreadyExists, failedPrecondition, internal } from '../errors.ts'
import { type Access, isReadOnly, isSingleWriter, required, requiredAccess, requiredPath } from '../fields.ts'
import type { NodePublishVolumeRequest, NodePublishVolumeResponse } from '../generated/csi.ts'
import type { NodeParts } from '../plugin.ts'
import type { AttachedDevice } from '../provider.ts'
import { runProgram } from '../run-program.ts'
import { findAttached } from './find-attached.ts'
import { giveToGroup } from './group-access.ts'
import { hasFailed, type Mount } from './mountinfo.ts'
import { answers, deviceNumber, ensureDirectory, ensureFile } from './mounts.ts'

/** Shows a staged volume at one more path: its file system bound to a directory, or its device node to a file. */
export async function publishVolume(
  request: NodePublishVolumeRequest,
  node: NodeParts,
  signal: AbortSignal,
): Promise<NodePublishVolumeResponse> {
  required('volume_id', request.volumeId)
  const target = requiredPath('target_path', request.targetPath)
  const access = requiredAccess(request.volumeCapability)
  const staging = requiredPath('staging_target_path', request.stagingTargetPath)
  const readOnly = request.readonly || isReadOnly(access)
  const device = await findAttached(request.volumeId, node.attacher)
  const mounts = await node.mounts.ofDevice(device.path)
  const here = mounts.findLast(({ path }) => path === target)
  const others = mounts.filter(({ path }) => path !== target && path !== staging)
  // A pod that has it already is that one: the kubelet has bound it for the pod at more places, for a subPath or as a raw disk.
  if (isSingleWriter(access) && here === undefined && others.length > 0) {
    throw failedPrecondition(`volume ${request.volumeId} is for one pod (ReadWriteOncePod) and published at ${others[0]?.path}`)
  }
  const there = { staging, target, readOnly, here }
  if (access.kind === 'block') await publishBlock(device, there, others, node, signal)
  else await publishFilesystem(device, there, access, mounts, node, signal)
  return {}
}

interface Place {
  staging: string
  target: string
  readOnly: boolean
  /** What is at the target already. */
  here: Mount | undefined
}

async function publishFilesystem(
  device: AttachedDevice,
  { staging, target, readOnly, here }: Place,
  access: Access & { kind: 'mount' },
  mounts: Mount[],
  node: NodeParts,
  signal: AbortSignal,
): Promise<void> {
  const staged = mounts.find(({ path }) => path === staging)
  if (staged === undefined) throw failedPrecondition(`${device.path} is not mounted at ${staging}; stage the volume first`)
  if (!readOnly && (hasFailed(staged) || staged.superOptions.includes('ro'))) {
    throw failedPrecondition(
      `the file system at ${staging} is read-only, after an error perhaps: look at the kernel's log, then unstage and stage it`,
    )
  }
  if (!(await answers(staging))) {
    throw failedPrecondition(`the file system at ${staging} does not answer any more: look at the kernel's log, then unstage and stage it`)
  }
  if (here !== undefined) {
    if (here.options.includes('ro') !== readOnly)
      throw alreadyExists(`${target} is published ${readOnly ? 'writable' : 'read-only'}; unpublish it first`)
    return
  }
  if (access.group !== null && !readOnly) await giveToGroup(staging, access.group, signal)
  await ensureDirectory(target)
  await node.mounts.bind(staging, target, readOnly, signal)
  if ((await node.mounts.at(target))?.device !== staged.device) throw internal(`${target} does not show ${staging} after binding`)
}

async function publishBlock(
  device: AttachedDevice,
  { target, readOnly, here }: Place,
  others: Mount[],
  node: NodeParts,
  signal: AbortSignal,
): Promise<void> {
  const { stdout } = await runProgram('blockdev', ['--getro', device.path], { signal })
  const isReadOnlyNow = stdout.toString().trim() === '1'
  if (here !== undefined || others.length > 0) {
    // Read-only is the whole disk's: there is one node of it.
    if (isReadOnlyNow !== readOnly)
      throw alreadyExists(`${device.path} is published ${isReadOnlyNow ? 'read-only' : 'writable'}; unpublish it first`)
    if (here !== undefined) return
  } else if (isReadOnlyNow !== readOnly) {
    await runProgram('blockdev', [readOnly ? '--setro' : '--setrw', device.path], { signal })
  }
  await device.verify()
  await ensureFile(target)
  await node.mounts.bind(device.path, target, false, signal)
  if ((await deviceNumber(target)) !== (await deviceNumber(device.path)))
    throw internal(`${target} does not show ${device.path} after binding`)
}
