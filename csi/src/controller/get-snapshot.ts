import { notFound } from '../errors.ts'
import { required } from '../fields.ts'
import type { GetSnapshotRequest, GetSnapshotResponse } from '../generated/csi.ts'
import type { ControllerParts } from '../plugin.ts'
import { toCsiSnapshot } from './messages.ts'

export async function getSnapshot(
  { snapshotId }: GetSnapshotRequest,
  { provider }: ControllerParts,
  signal: AbortSignal,
): Promise<GetSnapshotResponse> {
  required('snapshot_id', snapshotId)
  const snapshot = (await provider.snapshots(signal)).find(({ id }) => id === snapshotId)
  if (snapshot === undefined) throw notFound(`there is no snapshot ${snapshotId}`)
  return { snapshot: toCsiSnapshot(snapshot) }
}
