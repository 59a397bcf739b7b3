import { type NodeGetCapabilitiesResponse, NodeServiceCapability_RPC_Type as Rpc } from '../generated/csi.ts'

const TYPES = [
  Rpc.STAGE_UNSTAGE_VOLUME,
  Rpc.GET_VOLUME_STATS,
  Rpc.VOLUME_CONDITION,
  Rpc.EXPAND_VOLUME,
  Rpc.VOLUME_MOUNT_GROUP,
  Rpc.SINGLE_NODE_MULTI_WRITER,
]

export async function getCapabilities(): Promise<NodeGetCapabilitiesResponse> {
  return { capabilities: TYPES.map((type) => ({ type: { $case: 'rpc', value: { type } } })) }
}
