import { stat, statfs } from 'node:fs/promises'
import { notFound } from '../errors.ts'
import { required } from '../fields.ts'
import {
  type NodeGetVolumeStatsRequest,
  type NodeGetVolumeStatsResponse,
  VolumeUsage_Unit as Unit,
  type VolumeCondition,
  type VolumeUsage,
} from '../generated/csi.ts'
import type { NodeParts } from '../plugin.ts'
import { findAttached } from './find-attached.ts'
import { hasFailed, type Mount } from './mountinfo.ts'
import { answers } from './mounts.ts'

export async function getVolumeStats(
  request: NodeGetVolumeStatsRequest,
  { attacher, mounts }: NodeParts,
): Promise<NodeGetVolumeStatsResponse> {
  required('volume_id', request.volumeId)
  const path = required('volume_path', request.volumePath)
  const device = await findAttached(request.volumeId, attacher)
  const mount = (await mounts.ofDevice(device.path)).findLast((candidate) => candidate.path === path)
  if (mount === undefined) throw notFound(`volume ${request.volumeId} is not at ${path}`)
  if (!(await answers(path))) return { usage: [], volumeCondition: abnormal(path, 'does not answer') }
  const isBlock = !(await stat(path)).isDirectory()
  return {
    usage: isBlock ? [{ unit: Unit.BYTES, total: device.bytes, available: 0n, used: 0n }] : await filesystemUsage(path),
    volumeCondition: isBlock ? { abnormal: false, message: 'attached' } : conditionOf(mount),
  }
}

async function filesystemUsage(path: string): Promise<VolumeUsage[]> {
  const { bsize, blocks, bfree, bavail, files, ffree } = await statfs(path, { bigint: true })
  return [
    { unit: Unit.BYTES, total: blocks * bsize, available: bavail * bsize, used: (blocks - bfree) * bsize },
    // btrfs makes inodes as it needs them and has no number of them.
    { unit: Unit.INODES, total: files, available: ffree, used: files - ffree },
  ]
}

const conditionOf = (mount: Mount): VolumeCondition =>
  hasFailed(mount) ? abnormal(mount.path, 'went read-only') : { abnormal: false, message: 'mounted' }

const abnormal = (path: string, what: string): VolumeCondition => ({
  abnormal: true,
  message: `the file system at ${path} ${what}; look at the kernel's log`,
})
