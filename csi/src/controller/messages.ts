/**
 * A provider's volumes and snapshots as CSI's messages.
 */
import type { Snapshot as CsiSnapshot, Volume as CsiVolume, Topology, VolumeContentSource } from '../generated/csi.ts'
import type { NodeTopology } from '../plugin.ts'
import type { Snapshot, Volume, VolumeWish } from '../provider.ts'

/** Key of volume_context: 'true' for a volume that was made empty, which alone a node may ever format. */
export const BLANK_KEY = 'blank'

export function toCsiVolume(volume: Volume, topology: NodeTopology): CsiVolume {
  return {
    volumeId: volume.id,
    capacityBytes: volume.bytes,
    volumeContext: { ...volume.context, [BLANK_KEY]: String(volume.blank) },
    contentSource: toContentSource(volume.source),
    accessibleTopology: toTopologies(topology),
  }
}

export const toTopologies = (topology: NodeTopology): Topology[] =>
  topology === null ? [] : [{ segments: { [topology.key]: topology.value } }]

function toContentSource(source: VolumeWish['source']): VolumeContentSource | undefined {
  if (source === undefined) return undefined
  return source.kind === 'snapshot'
    ? { type: { $case: 'snapshot', value: { snapshotId: source.id } } }
    : { type: { $case: 'volume', value: { volumeId: source.id } } }
}

export const toCsiSnapshot = (snapshot: Snapshot): CsiSnapshot => ({
  snapshotId: snapshot.id,
  sourceVolumeId: snapshot.sourceId,
  sizeBytes: snapshot.bytes,
  creationTime: snapshot.createdAt,
  readyToUse: snapshot.ready,
  groupSnapshotId: '',
})
