import type { ListVolumesRequest, ListVolumesResponse } from '../generated/csi.ts'
import { isVolumeId } from '../ids.ts'
import { pageOf } from '../paging.ts'
import type { ControllerParts } from '../plugin.ts'
import { toCsiVolume } from './messages.ts'

export async function listVolumes(
  request: ListVolumesRequest,
  { provider, topology }: ControllerParts,
  signal: AbortSignal,
): Promise<ListVolumesResponse> {
  const { entries, nextToken } = pageOf(await provider.volumes(signal), request, isVolumeId)
  return {
    entries: entries.map((volume) => ({
      volume: toCsiVolume(volume, topology),
      status: { publishedNodeIds: volume.publishedTo ?? [], volumeCondition: undefined },
    })),
    nextToken,
  }
}
