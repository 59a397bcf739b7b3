/** Removes a device, with its server where there is one, and with what a dead server left. */

import { EXIT, Failure, noSuchDevice } from './failure.ts'
import { isRunning, waitForEnd } from './process.ts'
import { askServer, tellServer } from './server-client.ts'
import { isOfAnotherDisk, type ServerState, StateDirectory } from './state.ts'

/** The kernel waits for the requests under way, each of which has at most 20 s by default in a JavaScript backend. */
const STOP_LIMIT_MS = 30_000
const SERVER_END_LIMIT_MS = 5_000

/** Resolves when device and server are gone; with `wait: false` as soon as the removal is under way. */
export async function removeDevice(id: number, { wait }: { wait: boolean }): Promise<void> {
  const directory = StateDirectory.forUser()
  const record = directory.read(id)
  const served = record !== null && isRunning(record) ? record : null
  if (served !== null) {
    if (await serverRemoves(served, wait, directory)) return
    // It has removed its device before it ended, and a new one has the number.
    if (isOfAnotherDisk(served)) return
  }
  const wasThere = await deleteIfThere(id, wait)
  const hadFiles = directory.removeFormer(id, record)
  // A server that ended before its answer was out has carried it out.
  if (!wasThere && served === null) throw noSuchDevice(id, hadFiles ? '; the record that its dead server left is removed' : '')
}

/** Has the server remove its device. False when it does not listen any more: it may have ended before, after or on the way. */
async function serverRemoves(served: ServerState, wait: boolean, directory: StateDirectory): Promise<boolean> {
  const { id, pid } = served
  const socketPath = directory.socketPath(id)
  if (!wait) return tellServer(socketPath, 'POST', '/stop')
  const isRemoved = (await askServer(socketPath, 'POST', '/stop', STOP_LIMIT_MS)) !== null
  // One that is in its last moments may be removing its device: two at once are in each other's way.
  const hasEnded = await waitForEnd(served, SERVER_END_LIMIT_MS)
  if (isRemoved && !hasEnded) throw serverStays(id, pid)
  return isRemoved
}

/** False when there is no such device. */
async function deleteIfThere(id: number, wait: boolean): Promise<boolean> {
  const { deleteDevice } = await import('ublk')
  try {
    await deleteDevice(id, { wait })
    return true
  } catch (error) {
    if ((error as { code?: string }).code !== 'ERR_UBLK_NO_DEVICE') throw error
    return false
  }
}

function serverStays(id: number, pid: number): Failure {
  return new Failure({
    code: 'ERR_UBLK_TIMEOUT',
    message: `device ${id} is removed, but its server ${pid} still runs after ${SERVER_END_LIMIT_MS / 1000} s`,
    hint: `End it with kill -9 ${pid}.`,
    deviceId: id,
    exitCode: EXIT.timedOut,
  })
}
