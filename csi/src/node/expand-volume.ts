import { notFound, outOfRange } from '../errors.ts'
import { required } from '../fields.ts'
import type { NodeExpandVolumeRequest, NodeExpandVolumeResponse } from '../generated/csi.ts'
import type { NodeParts } from '../plugin.ts'
import { growFilesystem } from './filesystems.ts'
import { findAttached } from './find-attached.ts'

/** After the disk has grown: makes the node see it, then grows the file system while it is in use. */
export async function expandVolume(
  request: NodeExpandVolumeRequest,
  { attacher, mounts }: NodeParts,
  signal: AbortSignal,
): Promise<NodeExpandVolumeResponse> {
  const id = required('volume_id', request.volumeId)
  const path = required('volume_path', request.volumePath)
  const { requiredBytes = 0n, limitBytes = 0n } = request.capacityRange ?? {}
  await findAttached(id, attacher)
  await attacher.resized(id, requiredBytes, signal)
  const device = await findAttached(id, attacher)
  if (limitBytes > 0n && device.bytes > limitBytes)
    throw outOfRange(`volume ${id} has ${device.bytes} bytes, more than the limit of ${limitBytes}`)
  const mount = (await mounts.ofDevice(device.path)).findLast((candidate) => candidate.path === path)
  if (mount === undefined) throw notFound(`volume ${id} is not at ${path}`)
  if (mount.filesystem !== 'devtmpfs') await growFilesystem(device.path, path, mount.filesystem, signal)
  return { capacityBytes: device.bytes }
}
