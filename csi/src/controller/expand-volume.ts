import { invalidArgument, outOfRange } from '../errors.ts'
import { fits, required, sizeOf } from '../fields.ts'
import type { ControllerExpandVolumeRequest, ControllerExpandVolumeResponse } from '../generated/csi.ts'
import type { ControllerParts } from '../plugin.ts'
import { findVolume } from './find-volume.ts'

/** Makes the disk larger, never smaller. The node then grows what is on it. */
export async function expandVolume(
  { volumeId, capacityRange }: ControllerExpandVolumeRequest,
  { provider }: ControllerParts,
  signal: AbortSignal,
): Promise<ControllerExpandVolumeResponse> {
  required('volume_id', volumeId)
  if (capacityRange === undefined) throw invalidArgument('capacity_range is missing')
  const wanted = sizeOf(capacityRange)
  const volume = await findVolume(volumeId, provider, signal)
  if (volume.bytes > wanted && !fits(volume.bytes, capacityRange)) {
    throw outOfRange(`volume ${volumeId} has ${volume.bytes} bytes already; volumes do not shrink`)
  }
  const { bytes } = wanted > volume.bytes ? await provider.expandVolume(volumeId, wanted, signal) : volume
  return { capacityBytes: bytes, nodeExpansionRequired: true }
}
