import type { ListSnapshotsRequest, ListSnapshotsResponse } from '../generated/csi.ts'
import { isSnapshotId } from '../ids.ts'
import { pageOf } from '../paging.ts'
import type { ControllerParts } from '../plugin.ts'
import { toCsiSnapshot } from './messages.ts'

export async function listSnapshots(
  request: ListSnapshotsRequest,
  { provider }: ControllerParts,
  signal: AbortSignal,
): Promise<ListSnapshotsResponse> {
  const { snapshotId, sourceVolumeId } = request
  const wanted = (await provider.snapshots(signal)).filter(
    ({ id, sourceId }) => (snapshotId === '' || id === snapshotId) && (sourceVolumeId === '' || sourceId === sourceVolumeId),
  )
  const { entries, nextToken } = pageOf(wanted, request, isSnapshotId)
  return { entries: entries.map((snapshot) => ({ snapshot: toCsiSnapshot(snapshot) })), nextToken }
}
