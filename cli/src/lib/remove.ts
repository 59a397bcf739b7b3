/** Removes a device, with its server where there is one, and with what a dead server left. */

import { EXIT, Failure, noSuchDevice } from './failure.ts'
import { waitForEnd } from './process.ts'
import { askServer, tellServer } from './server-client.ts'
import { StateDirectory } from './state.ts'

/** The kernel waits for the requests under way, each of which has at most 20 s by default in a JavaScript backend. */
const STOP_LIMIT_MS = 30_000
const SERVER_END_LIMIT_MS = 5_000

/** Resolves when device and server are gone; with `wait: false` as soon as the removal is under way. */
export async function removeDevice(id: number, { wait }: { wait: boolean }): Promise<void> {
  const directory = StateDirectory.forUser()
  const served = directory.readServed(id)
  if (served !== null) {
    const socketPath = directory.socketPath(id)
    if (!wait) {
      if (await tellServer(socketPath, 'POST', '/stop')) return
    } else if ((await askServer(socketPath, 'POST', '/stop', STOP_LIMIT_MS)) !== null) {
      if (await waitForEnd(served, SERVER_END_LIMIT_MS)) return
      throw serverStays(id, served.pid)
    }
  }
  await removeUnserved(id, wait, directory)
}

async function removeUnserved(id: number, wait: boolean, directory: StateDirectory): Promise<void> {
  const { deleteDevice } = await import('ublk')
  try {
    await deleteDevice(id, { wait })
  } catch (error) {
    if ((error as { code?: string }).code !== 'ERR_UBLK_NO_DEVICE') throw error
    throw noSuchDevice(id, directory.remove(id) ? '; the record that its dead server left is removed' : '')
  }
  directory.remove(id)
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
