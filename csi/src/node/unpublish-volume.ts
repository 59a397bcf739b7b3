import { required, requiredPath } from '../fields.ts'
import type { NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse } from '../generated/csi.ts'
import type { NodeParts } from '../plugin.ts'
import { removeTarget } from './mounts.ts'

export async function unpublishVolume(
  { volumeId, targetPath }: NodeUnpublishVolumeRequest,
  { mounts }: NodeParts,
  signal: AbortSignal,
): Promise<NodeUnpublishVolumeResponse> {
  required('volume_id', volumeId)
  const path = requiredPath('target_path', targetPath)
  await mounts.unmount(path, signal)
  await removeTarget(path)
  return {}
}
