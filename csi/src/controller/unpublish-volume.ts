import { unimplemented } from '../errors.ts'
import { required } from '../fields.ts'
import type { ControllerUnpublishVolumeRequest, ControllerUnpublishVolumeResponse } from '../generated/csi.ts'
import { isVolumeId } from '../ids.ts'
import type { ControllerParts } from '../plugin.ts'

export async function unpublishVolume(
  { volumeId, nodeId }: ControllerUnpublishVolumeRequest,
  { provider }: ControllerParts,
  signal: AbortSignal,
): Promise<ControllerUnpublishVolumeResponse> {
  if (provider.unpublish === undefined) throw unimplemented(`the provider ${provider.name} has no fence; volumes need no unpublishing`)
  required('volume_id', volumeId)
  // No node means all nodes.
  if (isVolumeId(volumeId)) await provider.unpublish(volumeId, nodeId === '' ? undefined : nodeId, signal)
  return {}
}
