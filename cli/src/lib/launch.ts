/**
 * Starts a server process and waits until its device is live: the launcher's side. `server.ts` is the other.
 *
 * The two talk over Node's channel between parent and child, which closes when either ends:
 *   launcher → serve SPEC                          server → created ID, then live DEVICE or failed REPORT
 *   launcher → accepted, then closes the channel
 *   launcher → give-up, of a recovery              server → failed REPORT, or live DEVICE where it is too late for that
 * A server whose channel closes before `accepted` takes its device away: so the device exists if and only if the
 * launcher said so, whichever of the two is killed when. A device that is recovered exists anyway: its server goes on when its launcher
 * ends, gives up when it is told to, and is killed when it does not; all of that leaves the device to a server.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { extname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { DescribedDevice } from './describe.ts'
import { type ErrorReport, EXIT, Failure, interrupted } from './failure.ts'
import { StateDirectory } from './state.ts'
import type { ServeSpec } from './target.ts'

/** `recovers`: number of a device that its former server left. */
export type ToServer = { type: 'serve'; spec: ServeSpec; recovers: number | null } | { type: 'accepted' } | { type: 'give-up' }
export type FromServer =
  | { type: 'created'; id: number }
  | { type: 'live'; device: DescribedDevice }
  | { type: 'failed'; report: ErrorReport }

/** Time for a server to bring its device live: the kernel takes milliseconds, a backend may have to connect somewhere. */
const START_LIMIT_MS = 30_000
/** A server that was told to stop ends itself within 2 s. */
const END_LIMIT_MS = 2_000
/** From then on it is in the kernel's hands. */
const KILL_LIMIT_MS = 10_000

/** V8 looks at an idle heap every eight seconds for ever; a server that nobody uses sleeps. */
const QUIET = ['--no-memory-reducer']
/** glibc gives each thread megabytes of its own to allocate from, and a server's threads allocate next to nothing. */
const SMALL = { MALLOC_ARENA_MAX: '1' }

const SERVER = join(import.meta.dirname, '..', `server${extname(import.meta.filename)}`)

/** A server without a device: it waits for `launch`, and ends when this process does. */
export function startServer(): ChildProcess {
  // Own session and no terminal: it outlives this one. `/`: it must not keep a file system busy.
  return spawn(process.execPath, [...process.execArgv, ...QUIET, SERVER], {
    detached: true,
    cwd: '/',
    env: { ...SMALL, ...process.env },
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  })
}

/** Resolves when the device, a new one or `recovers`, is live and its server needs this process no more. */
export async function launch(
  spec: ServeSpec,
  signal: AbortSignal,
  recovers: number | null = null,
  start: () => ChildProcess = startServer,
): Promise<DescribedDevice> {
  const child = start()
  const conversation = new Conversation(child, recovers)
  try {
    const device = await conversation.untilLive(spec, signal)
    await conversation.accept()
    return device
  } catch (error) {
    if (recovers !== null && (await conversation.isTooLate())) {
      await conversation.accept()
      throw signal.aborted ? servedAlready(signal, recovers, child.pid as number) : error
    }
    await conversation.abandon()
    throw error
  }
}

class Conversation {
  readonly #child: ChildProcess
  readonly #recovers: number | null
  readonly #live: Promise<DescribedDevice>
  /** How it ended, when all that it said has been heard. */
  readonly #ended: Promise<string>
  /** The device that the server has and has not given back. */
  #createdId: number | null = null

  constructor(child: ChildProcess, recovers: number | null) {
    this.#child = child
    this.#recovers = recovers
    this.#live = new Promise((resolve, reject) => {
      child.on('message', (message: FromServer) => {
        if (message.type === 'created') this.#createdId = message.id
        if (message.type === 'live') resolve(message.device)
        if (message.type === 'failed') {
          this.#createdId = null
          reject(new Failure(message.report))
        }
      })
    })
    const heard = new Promise<void>((resolve) => child.once('disconnect', resolve))
    this.#ended = new Promise((resolve) => {
      child.once('error', (error) => resolve(error.message))
      child.once('exit', (code, signal) => heard.then(() => resolve(signal === null ? `exit status ${code}` : signal)))
    })
  }

  async untilLive(spec: ServeSpec, signal: AbortSignal): Promise<DescribedDevice> {
    const late = AbortSignal.timeout(START_LIMIT_MS)
    const whichever = Promise.race([
      this.#live,
      this.#ended.then((how) => Promise.reject(serverEnded(how, this.#recovers))),
      aborted(late).then(() => Promise.reject(notLiveInTime(this.#recovers))),
      aborted(signal).then(() => Promise.reject(interrupted(signal, undefined, this.#recovers))),
    ])
    void this.#send({ type: 'serve', spec, recovers: this.#recovers })
    return whichever
  }

  /** From here on the server goes on by itself. */
  async accept(): Promise<void> {
    await this.#send({ type: 'accepted' })
    this.#child.disconnect()
    this.#child.unref()
  }

  /** Has a recovery given up. True when that is too late: once the driver has heard of it, the server that goes on is the best end. */
  async isTooLate(): Promise<boolean> {
    void this.#send({ type: 'give-up' })
    const isLive = this.#live.then(
      () => true,
      () => false,
    )
    return Promise.race([isLive, this.#ended.then(() => false), delay(END_LIMIT_MS, false, { ref: false })])
  }

  /** Ends the server, and takes away what it leaves if it was killed. */
  async abandon(): Promise<void> {
    // A server that is told to stop removes its device.
    this.#child.kill(this.#recovers === null ? 'SIGTERM' : 'SIGKILL')
    const kill = setTimeout(() => this.#child.kill('SIGKILL'), END_LIMIT_MS)
    const hasEnded = await Promise.race([this.#ended.then(() => true), delay(KILL_LIMIT_MS, false, { ref: false })])
    clearTimeout(kill)
    if (!hasEnded) {
      // A call into a kernel that is stuck cannot be killed: what it holds is left to it.
      this.#child.unref()
      return
    }
    if (this.#createdId === null) return
    const directory = StateDirectory.forUser()
    const record = directory.read(this.#createdId)
    // The number may be another server's by now.
    if ((record?.pid ?? this.#child.pid) !== this.#child.pid) return
    const { deleteDevice } = await import('ublk')
    await deleteDevice(this.#createdId).catch(() => undefined)
    directory.removeFormer(this.#createdId, record)
  }

  #send(message: ToServer): Promise<void> {
    // A channel that is closed already shows as the end of the server.
    return new Promise((resolve) => this.#child.send(message, () => resolve()))
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}

function servedAlready(signal: AbortSignal, id: number, pid: number): Failure {
  return new Failure({
    code: 'ERR_UBLK_INTERRUPTED',
    message: `stopped by ${signal.reason} when device ${id} was served already`,
    hint: `Process ${pid} serves it.`,
    deviceId: id,
    exitCode: EXIT.failed,
  })
}

function notLiveInTime(recovers: number | null): Failure {
  return new Failure({
    code: 'ERR_UBLK_TIMEOUT',
    message: `the device was not live after ${START_LIMIT_MS / 1000} s; its server was ended`,
    hint: whatNext(recovers, 'does'),
    deviceId: recovers,
    exitCode: EXIT.timedOut,
  })
}

function serverEnded(how: string, recovers: number | null): Failure {
  return new Failure({
    code: 'ERR_UBLK_FAILED',
    message: `the server ended before its device was live (${how})`,
    hint: whatNext(recovers, 'says'),
    deviceId: recovers,
    exitCode: EXIT.failed,
  })
}

function whatNext(recovers: number | null, verb: 'does' | 'says'): string {
  if (recovers === null) return `Run it with --foreground to see what it ${verb}.`
  return `Device ${recovers} still waits for its server: \`ublk info ${recovers}\` shows what that is to serve; then try again.`
}
