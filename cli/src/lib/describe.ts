/** Devices as `list`, `info` and the server's `/info` show them: what the kernel knows, and what our state adds. */

import type { DeviceInfo } from 'ublk'
import type { ServerState, StateDirectory } from './state.ts'
import type { TargetSpec } from './target.ts'

/** A device in `list --json`: these names and this order are a contract. */
export interface ListedDevice
  extends Pick<
    DeviceInfo,
    | 'id'
    | 'path'
    | 'charPath'
    | 'state'
    | 'size'
    | 'logicalBlockSize'
    | 'physicalBlockSize'
    | 'queues'
    | 'depth'
    | 'maxIoBytes'
    | 'pid'
    | 'readOnly'
    | 'flags'
  > {
  /** Null for devices of other programs. */
  target: TargetSpec | null
}

/** A device in `info --json`. */
export interface DescribedDevice
  extends ListedDevice,
    Pick<
      DeviceInfo,
      | 'dataPath'
      | 'rotational'
      | 'volatileCache'
      | 'fua'
      | 'discard'
      | 'writeZeroes'
      | 'dmaAlignment'
      | 'maxSegments'
      | 'maxSegmentSize'
      | 'segmentBoundary'
      | 'zones'
      | 'integrity'
      | 'charNumber'
      | 'blockNumber'
      | 'ownerUid'
      | 'ownerGid'
    > {
  server: ServerDescription | null
}

export interface ServerDescription {
  pid: number
  running: boolean
  version: string
  startedAt: string
  socket: string
  recovery: string
}

export function toListed(info: DeviceInfo, state: ServerState | null): ListedDevice {
  const { id, path, charPath, state: deviceState, size, logicalBlockSize, physicalBlockSize } = info
  const { queues, depth, maxIoBytes, pid, readOnly, flags } = info
  return {
    id,
    path,
    charPath,
    state: deviceState,
    size,
    logicalBlockSize,
    physicalBlockSize,
    queues,
    depth,
    maxIoBytes,
    pid,
    readOnly,
    flags,
    target: state?.spec.target ?? null,
  }
}

export function toDescribed(info: DeviceInfo, state: ServerState | null, running: boolean, directory: StateDirectory): DescribedDevice {
  const { dataPath, rotational, volatileCache, fua, discard, writeZeroes, zones, integrity, ownerUid, ownerGid } = info
  const { dmaAlignment, maxSegments, maxSegmentSize, segmentBoundary } = info
  const what = { dataPath, rotational, volatileCache, fua, discard, writeZeroes }
  const memory = { dmaAlignment, maxSegments, maxSegmentSize, segmentBoundary }
  const numbers = { charNumber: info.charNumber, blockNumber: info.blockNumber }
  const server =
    state === null
      ? null
      : {
          pid: state.pid,
          running,
          version: state.version,
          startedAt: state.startedAt,
          socket: directory.socketPath(info.id),
          recovery: state.spec.device.recovery ?? 'off',
        }
  return { ...toListed(info, state), ...what, ...memory, zones, integrity, ...numbers, ownerUid, ownerGid, server }
}
