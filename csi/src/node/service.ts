/**
 * The Node service: which handler answers which call, and what it locks.
 */
import type { CallLayer } from '../calls.ts'
import type { NodeServer } from '../generated/csi.ts'
import type { NodeParts } from '../plugin.ts'
import { expandVolume } from './expand-volume.ts'
import { getCapabilities } from './get-capabilities.ts'
import { getInfo } from './get-info.ts'
import { getVolumeStats } from './get-volume-stats.ts'
import { publishVolume } from './publish-volume.ts'
import { stageVolume } from './stage-volume.ts'
import { unpublishVolume } from './unpublish-volume.ts'
import { unstageVolume } from './unstage-volume.ts'

export function nodeService(layer: CallLayer, parts: NodeParts): NodeServer {
  const volume = ({ volumeId }: { volumeId: string }): string[] => [volumeId]
  return {
    nodeStageVolume: layer.unary('NodeStageVolume', (request, signal) => stageVolume(request, parts, signal), volume),
    nodeUnstageVolume: layer.unary('NodeUnstageVolume', (request, signal) => unstageVolume(request, parts, signal), volume),
    nodePublishVolume: layer.unary('NodePublishVolume', (request, signal) => publishVolume(request, parts, signal), volume),
    nodeUnpublishVolume: layer.unary('NodeUnpublishVolume', (request, signal) => unpublishVolume(request, parts, signal), volume),
    nodeGetVolumeStats: layer.unary('NodeGetVolumeStats', (request) => getVolumeStats(request, parts)),
    nodeExpandVolume: layer.unary('NodeExpandVolume', (request, signal) => expandVolume(request, parts, signal), volume),
    nodeGetCapabilities: layer.unary('NodeGetCapabilities', () => getCapabilities()),
    nodeGetInfo: layer.unary('NodeGetInfo', () => getInfo(parts)),
  }
}
