import {
  PluginCapability_VolumeExpansion_Type as Expansion,
  type GetPluginCapabilitiesResponse,
  type PluginCapability,
  PluginCapability_Service_Type as Service,
} from '../generated/csi.ts'
import type { Plugin } from '../plugin.ts'

export async function getPluginCapabilities({ topology }: Plugin): Promise<GetPluginCapabilitiesResponse> {
  const capabilities: PluginCapability[] = [
    { type: { $case: 'service', value: { type: Service.CONTROLLER_SERVICE } } },
    { type: { $case: 'volumeExpansion', value: { type: Expansion.ONLINE } } },
  ]
  if (topology !== null) capabilities.push({ type: { $case: 'service', value: { type: Service.VOLUME_ACCESSIBILITY_CONSTRAINTS } } })
  return { capabilities }
}
