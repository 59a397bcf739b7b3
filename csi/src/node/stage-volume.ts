import { BLANK_KEY } from '../controller/messages.ts'
import { alreadyExists, failedPrecondition, notFound } from '../errors.ts'
import { type Access, isReadOnly, required, requiredAccess, requiredPath } from '../fields.ts'
import type { NodeStageVolumeRequest, NodeStageVolumeResponse } from '../generated/csi.ts'
import { isVolumeId } from '../ids.ts'
import type { NodeParts } from '../plugin.ts'
import type { AttachedDevice } from '../provider.ts'
import { separateClone } from './clones.ts'
import { checkFilesystem, ensureFilesystem, growFilesystem } from './filesystems.ts'
import { giveToGroup } from './group-access.ts'
import { ensureDirectory } from './mounts.ts'

/** Attaches the disk; for a file system also makes it once, checks, mounts and grows it. */
export async function stageVolume(request: NodeStageVolumeRequest, node: NodeParts, signal: AbortSignal): Promise<NodeStageVolumeResponse> {
  const id = required('volume_id', request.volumeId)
  const path = requiredPath('staging_target_path', request.stagingTargetPath)
  const access = requiredAccess(request.volumeCapability)
  if (!isVolumeId(id)) throw notFound(`there is no volume ${id}`)
  const device = await node.attacher.attach(id, request.volumeContext, signal)
  if (access.kind === 'mount') await stageFilesystem(device, path, access, request.volumeContext[BLANK_KEY] === 'true', node, signal)
  return {}
}

async function stageFilesystem(
  device: AttachedDevice,
  path: string,
  access: Access & { kind: 'mount' },
  isBlank: boolean,
  { mounts }: NodeParts,
  signal: AbortSignal,
): Promise<void> {
  const { filesystem, mountFlags, group } = access
  if (!(await isStaged(device, path, filesystem, mounts))) {
    await ensureDirectory(path)
    await ensureFilesystem(device, filesystem, isBlank, signal)
    const options = [...mountFlags, ...(isReadOnly(access) ? ['ro'] : [])]
    const replay = async (): Promise<void> => {
      await mounts.mount(device.path, path, filesystem, [], signal)
      await mounts.unmount(path, signal)
    }
    if (!isBlank) options.push(...(await separateClone(device, filesystem, replay, signal)))
    await checkFilesystem(device.path, filesystem, signal)
    await device.verify()
    await mounts.mount(device.path, path, filesystem, options, signal)
  }
  if (isReadOnly(access)) return
  // A volume that was expanded while nobody used it, or copied into a larger one.
  await growFilesystem(device.path, path, filesystem, signal)
  if (group !== null) await giveToGroup(path, group, signal)
}

async function isStaged(device: AttachedDevice, path: string, filesystem: string, mounts: NodeParts['mounts']): Promise<boolean> {
  const found = await mounts.at(path)
  if (found === undefined) return false
  const isOurs = (await mounts.ofDevice(device.path)).some((mount) => mount.path === path)
  if (!isOurs) throw failedPrecondition(`${path} is a mount of ${found.source}, not of ${device.path}; unmount it`)
  if (found.filesystem !== filesystem)
    throw alreadyExists(`${path} is staged with ${found.filesystem}, not ${filesystem}; unstage it first`)
  return true
}
