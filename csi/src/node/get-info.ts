import type { NodeGetInfoResponse } from '../generated/csi.ts'
import type { NodeParts } from '../plugin.ts'

export async function getInfo({ nodeId, maxVolumes, topology }: NodeParts): Promise<NodeGetInfoResponse> {
  return {
    nodeId,
    maxVolumesPerNode: BigInt(maxVolumes),
    accessibleTopology: topology === null ? undefined : { segments: { [topology.key]: topology.value } },
  }
}
