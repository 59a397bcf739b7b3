import type { ControllerGetVolumeRequest, ControllerGetVolumeResponse } from '../generated/csi.ts'
import type { ControllerParts } from '../plugin.ts'
import { findVolume } from './find-volume.ts'
import { toCsiVolume } from './messages.ts'

export async function getVolume(
  { volumeId }: ControllerGetVolumeRequest,
  { provider, topology }: ControllerParts,
  signal: AbortSignal,
): Promise<ControllerGetVolumeResponse> {
  const volume = await findVolume(volumeId, provider, signal)
  return {
    volume: toCsiVolume(volume, topology),
    status: { publishedNodeIds: volume.publishedTo ?? [], volumeCondition: undefined },
  }
}
