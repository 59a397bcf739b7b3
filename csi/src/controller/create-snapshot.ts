import { alreadyExists } from '../errors.ts'
import { required } from '../fields.ts'
import type { CreateSnapshotRequest, CreateSnapshotResponse } from '../generated/csi.ts'
import { snapshotId } from '../ids.ts'
import type { ControllerParts } from '../plugin.ts'
import { findVolume } from './find-volume.ts'
import { toCsiSnapshot } from './messages.ts'

export async function createSnapshot(
  { name, sourceVolumeId }: CreateSnapshotRequest,
  { provider }: ControllerParts,
  signal: AbortSignal,
): Promise<CreateSnapshotResponse> {
  required('name', name)
  required('source_volume_id', sourceVolumeId)
  const id = snapshotId(name)
  const existing = (await provider.snapshots(signal)).find((snapshot) => snapshot.id === id)
  if (existing !== undefined && existing.sourceId !== sourceVolumeId) {
    throw alreadyExists(`snapshot "${name}" exists, of volume ${existing.sourceId}; delete it, or choose another name`)
  }
  if (existing?.ready) return { snapshot: toCsiSnapshot(existing) }
  const volume = await findVolume(sourceVolumeId, provider, signal, 'source_volume_id')
  return { snapshot: toCsiSnapshot(await provider.createSnapshot(id, volume.id, signal)) }
}

/** The source must not be deleted or resized meanwhile. */
export const locksOfCreateSnapshot = ({ name, sourceVolumeId }: CreateSnapshotRequest): Array<string | undefined> => [
  name === '' ? undefined : snapshotId(name),
  sourceVolumeId,
]
