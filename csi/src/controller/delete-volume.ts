import { required } from '../fields.ts'
import type { DeleteVolumeRequest, DeleteVolumeResponse } from '../generated/csi.ts'
import { isVolumeId } from '../ids.ts'
import type { ControllerParts } from '../plugin.ts'

export async function deleteVolume(
  { volumeId }: DeleteVolumeRequest,
  { provider }: ControllerParts,
  signal: AbortSignal,
): Promise<DeleteVolumeResponse> {
  required('volume_id', volumeId)
  // What this driver never made is as good as deleted.
  if (isVolumeId(volumeId)) await provider.deleteVolume(volumeId, signal)
  return {}
}
