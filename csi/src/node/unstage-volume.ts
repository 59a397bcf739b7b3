import { failedPrecondition } from '../errors.ts'
import { required, requiredPath } from '../fields.ts'
import type { NodeUnstageVolumeRequest, NodeUnstageVolumeResponse } from '../generated/csi.ts'
import { isVolumeId } from '../ids.ts'
import type { NodeParts } from '../plugin.ts'

/** Unmounts, and detaches the disk when nobody else uses it. The directory is the caller's. */
export async function unstageVolume(
  { volumeId, stagingTargetPath }: NodeUnstageVolumeRequest,
  { attacher, mounts }: NodeParts,
  signal: AbortSignal,
): Promise<NodeUnstageVolumeResponse> {
  const id = required('volume_id', volumeId)
  const path = requiredPath('staging_target_path', stagingTargetPath)
  if (!isVolumeId(id)) return {}
  const device = await attacher.attached(id)
  // A disk that is gone may still be mounted: then its file system tells where else.
  const mounted = [...(await mounts.sharing(path)), ...(device === undefined ? [] : await mounts.ofDevice(device.path))]
  const other = mounted.find((mount) => mount.path !== path)
  if (other !== undefined) throw failedPrecondition(`volume ${id} is still published at ${other.path}; unpublish it first`)
  // A server that is away is waited for as long as its disk waits (ctrl_loss_tmo): to cut that short would lose what is not written yet.
  await mounts.unmount(path, signal)
  if (device !== undefined && (await mounts.isHeld(device.path)))
    throw failedPrecondition(`${device.path} is held by another program or in another mount namespace; end that first`)
  await attacher.detach(id, signal)
  return {}
}
