import { failedPrecondition, invalidArgument, notFound, resourceExhausted, unimplemented } from '../errors.ts'
import { required, requiredAccess } from '../fields.ts'
import type { ControllerPublishVolumeRequest, ControllerPublishVolumeResponse } from '../generated/csi.ts'
import type { ControllerParts } from '../plugin.ts'
import { findVolume } from './find-volume.ts'

/** Lets one node in, and so keeps the others out. */
export async function publishVolume(
  request: ControllerPublishVolumeRequest,
  { provider, onlyNode, maxVolumes }: ControllerParts,
  signal: AbortSignal,
): Promise<ControllerPublishVolumeResponse> {
  if (provider.publish === undefined) throw unimplemented(`the provider ${provider.name} has no fence; volumes need no publishing`)
  const nodeId = required('node_id', request.nodeId)
  required('volume_id', request.volumeId)
  requiredAccess(request.volumeCapability)
  if (request.readonly) throw invalidArgument('readonly is not supported here (no PUBLISH_READONLY); use a read-only mount')
  const volume = await findVolume(request.volumeId, provider, signal)
  if (onlyNode !== null && nodeId !== onlyNode) {
    throw notFound(`there is no node ${nodeId} that could attach volume ${volume.id}; here is ${onlyNode} alone`)
  }
  const other = volume.publishedTo?.find((id) => id !== nodeId)
  if (other !== undefined) {
    throw failedPrecondition(`volume ${volume.id} is published to node ${other}; unpublish it there before node ${nodeId} may have it`)
  }
  if (maxVolumes > 0 && !volume.publishedTo?.includes(nodeId)) {
    const others = (await provider.volumes(signal)).filter(({ publishedTo }) => publishedTo?.includes(nodeId))
    if (others.length >= maxVolumes) {
      throw resourceExhausted(`node ${nodeId} has ${others.length} volumes already, as many as it takes (--max-volumes); use another node`)
    }
  }
  await provider.publish(volume.id, nodeId, signal)
  return { publishContext: {} }
}
