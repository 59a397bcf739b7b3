/** Devices that are in use change hands, size or shared memory: asks the server where there is one, and the kernel where there is none. */

import type { ChildProcess } from 'node:child_process'
import type { SharedMemoryInfo } from 'ublk'
import type { DescribedDevice } from './describe.ts'
import { EXIT, Failure, noSuchDevice, reportOf } from './failure.ts'
import { launch } from './launch.ts'
import { holderOf, lockPath } from './lock.ts'
import { waitForEnd } from './process.ts'
import { askServer } from './server-client.ts'
import { isOfAnotherDisk, type ServerState, StateDirectory } from './state.ts'
import type { Keeper } from './target.ts'

const SERVER_END_LIMIT_MS = 5_000

/** The server knows better why it takes longer than it was given: its answer is waited for. */
const ANSWER_SLACK_MS = 5_000

/** The driver waits for open requests, and the library for the driver 30 s. */
const SHARING_LIMIT_MS = 40_000

/**
 * Starts a server for a device that waits for one, with what the record of its former one says.
 * @param start starts the server's process; called when nothing forbids it
 */
export async function recover(id: number, signal: AbortSignal, start?: () => ChildProcess): Promise<DescribedDevice> {
  const { deviceInfo } = await import('ublk')
  const directory = StateDirectory.forUser()
  const { state: record, problem } = directory.inspect(id)
  const exists = await deviceInfo(id).catch((error: { code?: string }) => {
    if (error.code === 'ERR_UBLK_NO_DEVICE') return null
    throw error
  })
  if (exists === null) {
    const also =
      record === null
        ? ''
        : '; there is a record of it (`ublk cleanup` removes that), but the machine was started since or somebody has removed it'
    throw noSuchDevice(id, also)
  }
  if (record === null) throw noRecord(id, problem ?? missingRecord(id, directory.statePath(id)))
  if (isOfAnotherDisk(record)) throw noRecord(id, replaced(id))
  const keeper = record.spec.keeper && holderOf(lockPath(directory, record.spec.keeper.file))
  // Two recoveries of one device at once are more than some kernels can take.
  if (keeper && keeper.pid !== process.pid) throw keptUp(id, keeper.pid, record.spec.keeper as Keeper)
  return launch(record.spec, signal, id, start)
}

/** Resolves when the device waits for the next server, and its present one has ended. */
export async function quiesce(id: number, limitMs: number): Promise<void> {
  const directory = StateDirectory.forUser()
  const served = directory.readServed(id)
  if (served !== null) {
    const isQuiesced = await askToQuiesce(directory.socketPath(id), limitMs, served)
    // One that does not listen any more is about to end, and the driver says only after that what it has left.
    await waitForEnd(served, SERVER_END_LIMIT_MS)
    if (isQuiesced) return
  }
  const { quiesceDevice } = await import('ublk')
  await quiesceDevice(id, { timeoutMs: limitMs })
}

/** False when nobody listens, or no more: then it may have let go or not. */
async function askToQuiesce(socketPath: string, limitMs: number, { id, pid }: ServerState): Promise<boolean> {
  try {
    return (await askServer(socketPath, 'POST', `/quiesce?timeoutMs=${limitMs}`, limitMs + ANSWER_SLACK_MS)) !== null
  } catch (error) {
    if (reportOf(error).code !== 'ERR_UBLK_TIMEOUT') throw error
    throw notQuiesced(id, pid, limitMs, error)
  }
}

export async function resize(id: number, size: string): Promise<void> {
  const { deviceInfo, parseSize, resizeDevice } = await import('ublk')
  const bytes = parseSize(size)
  const directory = StateDirectory.forUser()
  const { pid } = await deviceInfo(id)
  const served = directory.readServed(id)
  if (served?.pid === pid && (await askServer(directory.socketPath(id), 'POST', `/resize?size=${bytes}`)) !== null) return
  await resizeDevice(id, bytes)
}

/** What `ublk shmem --json` gives. */
export interface Sharing {
  id: number
  sharedMemory: SharedMemoryInfo[]
}

/** The driver alone does not say what is shared, and to share memory is of no use unless its server maps it too. */
export async function askSharing(id: number, method: 'GET' | 'POST', question: string): Promise<Sharing> {
  const { deviceInfo } = await import('ublk')
  const directory = StateDirectory.forUser()
  const { pid } = await deviceInfo(id)
  const isServed = directory.readServed(id)?.pid === pid
  const answer = isServed ? await askServer<Sharing>(directory.socketPath(id), method, question, SHARING_LIMIT_MS) : null
  if (answer !== null) return answer
  throw new Failure({
    code: 'ERR_UBLK_INVALID_STATE',
    message: `device ${id} is served by no \`ublk\` here, and only its server can share memory: it has to map the file, too`,
    hint: 'In a program of your own: `device.shareMemory()` and `device.unshareMemory()` of the library.',
    deviceId: id,
    exitCode: EXIT.failed,
  })
}

/** Neither a plain kill nor `ublk del`: both would cost the device. */
function notQuiesced(id: number, pid: number, limitMs: number, cause: unknown): Failure {
  return new Failure(
    {
      code: 'ERR_UBLK_TIMEOUT',
      message: `device ${id} is not quiesced after ${limitMs} ms: process ${pid}, which serves it, has not answered all of its requests`,
      hint: `New requests wait. Ask again; or \`kill -9 ${pid}\`, then \`ublk recover ${id}\`: what waits goes on with the next server.`,
      deviceId: id,
      exitCode: EXIT.timedOut,
    },
    cause,
  )
}

function keptUp(id: number, pid: number, { file, name }: Keeper): Failure {
  return new Failure({
    code: 'ERR_UBLK_BUSY',
    message: `device ${id} is ${JSON.stringify(name)} of ${file}: \`ublk serve\` (process ${pid}) recovers it`,
    hint: 'To give it a new server: `ublk quiesce`, and no more.',
    deviceId: id,
    exitCode: EXIT.busy,
  })
}

function missingRecord(id: number, path: string): string {
  return `there is no record of device ${id} (${path}): it says what to serve the device with`
}

function replaced(id: number): string {
  return `device ${id} is another one than that of its record: somebody has removed that, and a program has made this one since`
}

function noRecord(id: number, message: string): Failure {
  return new Failure({
    code: 'ERR_UBLK_NO_RECORD',
    message,
    hint: `Recover it with the program that made it (\`recoverDevice(${id}, …)\` of the library), or give it up with \`ublk del ${id}\`.`,
    deviceId: id,
    exitCode: EXIT.failed,
  })
}
