import {
  PluginCapability_VolumeExpansion_Type as Expansion,
  type GetPluginCapabilitiesResponse,
  type PluginCapability,
  PluginCapability_Service_Type as Service,
} from '../generated/csi.ts'
import type { Plugin } from '../plugin.ts'

export async function getPluginCapabilities(
  { topology, expandsInUse }: Plugin,
  signal: AbortSignal,
): Promise<GetPluginCapabilitiesResponse> {
  const capabilities: PluginCapability[] = [
    { type: { $case: 'service', value: { type: Service.CONTROLLER_SERVICE } } },
    { type: { $case: 'volumeExpansion', value: { type: (await expandsInUse(signal)) ? Expansion.ONLINE : Expansion.OFFLINE } } },
  ]
  if (topology !== null) capabilities.push({ type: { $case: 'service', value: { type: Service.VOLUME_ACCESSIBILITY_CONSTRAINTS } } })
  return { capabilities }
}
