import { type ControllerGetCapabilitiesResponse, ControllerServiceCapability_RPC_Type as Rpc } from '../generated/csi.ts'
import type { ControllerParts } from '../plugin.ts'

const ALWAYS = [
  Rpc.CREATE_DELETE_VOLUME,
  Rpc.LIST_VOLUMES,
  Rpc.GET_VOLUME,
  Rpc.GET_CAPACITY,
  Rpc.EXPAND_VOLUME,
  Rpc.SINGLE_NODE_MULTI_WRITER,
]
const SNAPSHOTS = [Rpc.CREATE_DELETE_SNAPSHOT, Rpc.LIST_SNAPSHOTS, Rpc.GET_SNAPSHOT]
const PUBLISHING = [Rpc.PUBLISH_UNPUBLISH_VOLUME, Rpc.LIST_VOLUMES_PUBLISHED_NODES]

/** What is declared is what the provider has, which it may have to find out. */
export async function getCapabilities({ provider }: ControllerParts, signal: AbortSignal): Promise<ControllerGetCapabilitiesResponse> {
  await provider.probe(signal)
  const { can } = provider
  const types = [
    ...ALWAYS,
    ...(can.snapshots ? SNAPSHOTS : []),
    ...(can.clones ? [Rpc.CLONE_VOLUME] : []),
    ...(can.publish ? PUBLISHING : []),
  ]
  return { capabilities: types.map((type) => ({ type: { $case: 'rpc', value: { type } } })) }
}
