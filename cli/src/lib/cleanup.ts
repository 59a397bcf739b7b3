/** What is left of servers that are gone, and how it is removed. */

import { statSync } from 'node:fs'
import type { DeviceInfo } from 'ublk'
import { isRunning, startTicksOf } from './process.ts'
import { removeDevice } from './remove.ts'
import { askServer } from './server-client.ts'
import { StateDirectory } from './state.ts'

export interface Finding {
  id: number
  /** `orphan`: a dead device without a server. `recoverable`: a device that waits for one. `stale`: files of a device that is gone. */
  kind: 'orphan' | 'recoverable' | 'stale'
  reason: string
}

/** A device is dead between ADD_DEV and START_DEV, too: a backend may connect somewhere meanwhile. */
const YOUNG_MS = 60_000

/** Lowest id first. */
export async function findOrphans(): Promise<Finding[]> {
  const { listDevices } = await import('ublk')
  const directory = StateDirectory.forUser()
  const devices = await listDevices()
  const known = new Set(devices.map(({ id }) => id))
  const ofDevices = devices.map((device) => examineDevice(device, directory))
  const ofFiles = directory
    .ids()
    .filter((id) => !known.has(id))
    .map((id) => examineFiles(id, directory))
  const found = [...ofDevices, ...(await Promise.all(ofFiles))].filter((finding) => finding !== null)
  return found.sort((one, other) => one.id - other.id)
}

/**
 * Removes what was found, if it is still that. Resolves with false when it is not, and nothing was touched: to remove what was found before
 * takes its time, and a new device may have the number by now.
 */
export async function removeOrphan({ id, kind, reason }: Finding): Promise<boolean> {
  const now = await examine(id)
  if (now?.kind !== kind || now.reason !== reason) return false
  if (kind === 'stale') StateDirectory.forUser().removeFormer(id, null)
  else await removeDevice(id, { wait: true })
  return true
}

async function examine(id: number): Promise<Finding | null> {
  const { deviceInfo } = await import('ublk')
  const directory = StateDirectory.forUser()
  const device = await deviceInfo(id).catch((error: { code?: string }) => {
    if (error.code === 'ERR_UBLK_NO_DEVICE') return null
    throw error
  })
  if (device !== null) return examineDevice(device, directory)
  return directory.ids().includes(id) ? examineFiles(id, directory) : null
}

function examineDevice({ id, state, pid, charPath }: DeviceInfo, directory: StateDirectory): Finding | null {
  const { state: record, problem } = directory.inspect(id)
  if (state === 'live' || (record !== null && isRunning(record))) return null
  const whose = problem ?? (record === null ? 'not made by this program' : `its server ${record.pid} is gone`)
  if (state !== 'dead') return { id, kind: 'recoverable', reason: `${state}, ${whose}` }
  if (pid > 0 && startTicksOf(pid) !== null) return null
  if (record === null && isYoung(charPath)) return null
  return { id, kind: 'orphan', reason: `dead, ${whose}` }
}

async function examineFiles(id: number, directory: StateDirectory): Promise<Finding | null> {
  const { state, problem } = directory.inspect(id)
  // A server writes its record after the device is there, and takes it away before the device goes.
  if (state !== null && isRunning(state)) return null
  const answer = state === null ? await askServer(directory.socketPath(id), 'GET', '/info').catch(() => null) : null
  if (answer !== null) return null
  return { id, kind: 'stale', reason: problem ?? (state === null ? 'a socket without a record' : 'the record of a device that is gone') }
}

function isYoung(path: string): boolean {
  const made = statSync(path, { throwIfNoEntry: false })?.ctimeMs
  return made !== undefined && Date.now() - made < YOUNG_MS
}
