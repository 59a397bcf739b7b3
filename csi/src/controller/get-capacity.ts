import { isWithin, unsupported } from '../fields.ts'
import type { GetCapacityRequest, GetCapacityResponse } from '../generated/csi.ts'
import type { ControllerParts } from '../plugin.ts'

export async function getCapacity(
  { accessibleTopology, parameters, volumeCapabilities }: GetCapacityRequest,
  { provider, topology }: ControllerParts,
  signal: AbortSignal,
): Promise<GetCapacityResponse> {
  const isElsewhere = topology !== null && accessibleTopology !== undefined && !isWithin(accessibleTopology, topology.key, topology.value)
  if (isElsewhere || volumeCapabilities.some((capability) => unsupported(capability) !== null)) {
    return { availableCapacity: 0n, maximumVolumeSize: undefined, minimumVolumeSize: undefined }
  }
  const { available, largestVolume } = await provider.capacity(parameters, signal)
  return { availableCapacity: available, maximumVolumeSize: largestVolume, minimumVolumeSize: undefined }
}
