import { required } from '../fields.ts'
import type { DeleteSnapshotRequest, DeleteSnapshotResponse } from '../generated/csi.ts'
import { isSnapshotId } from '../ids.ts'
import type { ControllerParts } from '../plugin.ts'

export async function deleteSnapshot(
  { snapshotId }: DeleteSnapshotRequest,
  { provider }: ControllerParts,
  signal: AbortSignal,
): Promise<DeleteSnapshotResponse> {
  required('snapshot_id', snapshotId)
  if (isSnapshotId(snapshotId)) await provider.deleteSnapshot(snapshotId, signal)
  return {}
}
