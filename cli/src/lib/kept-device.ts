/**
 * One device of FILE, kept up: adopts it where it lives, recovers it where its server is gone, makes it where it is absent, and tries
 * again, later and later, where that fails. Which device is meant, its record says (`keeper`): so a supervisor that is started anew finds it.
 *
 * What FILE says no more is removed, and what it says differently is made anew, but only when nobody has the device open; until then it
 * is kept up as it is.
 */

import { existsSync } from 'node:fs'
import { open } from 'node:fs/promises'
import type { DeviceInfo } from 'ublk'
import { reportOf } from './failure.ts'
import { recover } from './hand-over.ts'
import { launch } from './launch.ts'
import { isRunning } from './process.ts'
import { removeDevice } from './remove.ts'
import type { Warning } from './serve.ts'
import type { ServeEvent } from './serve-events.ts'
import type { Entry, RestartLimits } from './serve-file.ts'
import { askServer } from './server-client.ts'
import type { Spare } from './spare.ts'
import { type ServerState, StateDirectory } from './state.ts'

/** How often it looks for the server: a file of /proc is read in microseconds, and users of the device wait meanwhile. */
const LOOK_MS = 100
/** How often it tries to remove or replace a device that is in use, and asks its server what there was to warn of. */
const ASK_MS = 5_000
const ANSWER_LIMIT_MS = 1_000
/** A server that lived so long had a good start: what ended it is a new failure. */
const SETTLED_MS = 10_000
/** Time for the kernel to see the end of a server, and for a server to end when its device is quiesced or stopped. */
const END_LIMIT_MS = 15_000

/** A size that was refused by one of these is refused for good. The others can be mended, such as a file that is too short. */
const REFUSALS = ['ERR_UBLK_INVALID_OPTION', 'ERR_UBLK_INVALID_STATE', 'ERR_UBLK_NO_MEMORY', 'ERR_UBLK_UNSUPPORTED']

/** What FILE has done to a device that is there. */
type Wish = 'grow' | 'replace' | 'remove' | null

export interface Surroundings {
  spare: Spare
  tell: (event: ServeEvent) => void
  /** Called when `isLive`, `isGivenUp` or `trouble` has changed. */
  onChange: () => void
}

export class KeptDevice {
  /** Resolves when it is kept no more: after `stop`, or when FILE has it no more and it is removed. */
  readonly ended: Promise<void>
  /** The number of the device, while there is one. */
  id: number | null = null
  isLive = false
  /** All tries in a row are used up: it is tried rarely, until it is live. */
  isGivenUp = false
  /** Why it is not live; null before the first failure. */
  trouble: string | null = null

  #entry: Entry
  #isWanted = true
  #toldInUse = false
  /** What has kept it from doing as FILE says, as it was told last. */
  #toldTrouble: string | null = null
  /** The one whose size the device cannot grow to. */
  #refused: Entry | null = null
  /** What its server has last said that there was to warn of. */
  #warnings: Warning[] = []
  readonly #surroundings: Surroundings
  readonly #stop = new AbortController()
  #wake: () => void = () => undefined
  readonly #directory = StateDirectory.forUser()

  constructor(entry: Entry, surroundings: Surroundings) {
    this.#entry = entry
    this.#surroundings = surroundings
    this.ended = this.#keep()
  }

  get name(): string {
    return this.#entry.name
  }

  /** What FILE says of it now. Returns whether that is something else. */
  update(entry: Entry): boolean {
    const isSame = this.#isWanted && JSON.stringify(entry) === JSON.stringify(this.#entry)
    if (isSame) return false
    this.#entry = entry
    this.#isWanted = true
    this.#tellAnew()
    this.#wake()
    return true
  }

  /** FILE has it no more. */
  retire(): void {
    this.#isWanted = false
    this.#tellAnew()
    this.#wake()
  }

  #tellAnew(): void {
    this.#toldInUse = false
    this.#toldTrouble = null
  }

  /** Keeps it no more, and leaves it as it is. */
  async stop(): Promise<void> {
    this.#stop.abort('a stop signal')
    this.#wake()
    await this.ended
  }

  get #isStopped(): boolean {
    return this.#stop.signal.aborted
  }

  async #keep(): Promise<void> {
    let tries = 0
    let goneAt = performance.now()
    while (!this.#isStopped) {
      let served: ServerState | null
      try {
        served = await this.#bringUp(goneAt)
        if (served === null) return
      } catch (error) {
        if (this.#isStopped) return
        this.#failed(++tries, error)
        await this.#backOff(tries)
        continue
      }
      this.#turned(true, null)
      const since = performance.now()
      const isOurDoing = await this.#watch(served)
      goneAt = performance.now()
      if (this.#isStopped) return
      if (isOurDoing) this.#turned(false, null)
      if (isOurDoing) continue
      tries = goneAt - since < SETTLED_MS ? tries + 1 : 0
      if (tries > 0) await this.#backOff(tries)
    }
  }

  /** Resolves with the server of the device when it is live, or null when there is to be none. */
  async #bringUp(goneAt: number): Promise<ServerState | null> {
    let state = this.#find()
    if (state !== null && (await this.#isForeign(state))) {
      this.#directory.removeFormer(state.id, state)
      state = null
    }
    this.id = state?.id ?? null
    if (state !== null && isRunning(state) && (await this.#stateOf(state.id)) === 'live') {
      this.#surroundings.tell({ event: 'adopted', name: this.name, id: state.id, path: `/dev/ublkb${state.id}`, pid: state.pid })
      return state
    }
    // A size is changed when the device is live again.
    if (state !== null && (await this.#wish(state)) !== 'grow' && (await this.#apply(state))) state = null
    if (state !== null) return this.#revive(state, goneAt)
    return this.#isWanted ? this.#create(goneAt) : null
  }

  /** A device that has no server, or one that is about to end. */
  async #revive(state: ServerState, goneAt: number): Promise<ServerState | null> {
    const { id } = state
    const isRecoverable = (state.spec.device.recovery ?? 'off') !== 'off'
    // The kernel takes its time to see the end of a server, and a server its own to end when its device is taken from it.
    const limit = performance.now() + END_LIMIT_MS
    const isEnding = async (): Promise<boolean> => isRunning(state) || (!isRecoverable && (await this.#stateOf(id)) === 'live')
    while ((await this.#stateOf(id)) !== 'dead' && (await isEnding()) && performance.now() < limit && !this.#isStopped)
      await this.#pause(20)
    if (this.#isStopped) return null
    if (!isRecoverable || (await this.#stateOf(id)) === 'dead') {
      await removeDevice(id, { wait: true })
      return this.#isWanted ? this.#create(goneAt) : null
    }
    return this.#served('recovered', await recover(id, this.#stop.signal, this.#surroundings.spare.take), goneAt)
  }

  async #create(goneAt: number): Promise<ServerState> {
    return this.#served('started', await launch(this.#entry.spec, this.#stop.signal, null, this.#surroundings.spare.take), goneAt)
  }

  #served(event: 'started' | 'recovered', { id, path }: { id: number; path: string }, goneAt: number): ServerState {
    const state = this.#directory.readServed(id)
    if (state === null) throw new Error(`the server of device ${id} has ended at once`)
    this.id = id
    this.#surroundings.tell({ event, name: this.name, id, path, pid: state.pid, ms: Math.round(performance.now() - goneAt) })
    return state
  }

  /** Resolves when the server or the block device is gone, or at a stop; with true when we removed it, as FILE wants it. */
  async #watch(served: ServerState): Promise<boolean> {
    let triedAt = Number.NEGATIVE_INFINITY
    while (!this.#isStopped) {
      const reason = !isRunning(served)
        ? `its server, process ${served.pid}, is gone`
        : existsSync(`/sys/block/ublkb${served.id}`)
          ? null
          : 'somebody has stopped it'
      if (reason !== null) {
        this.#turned(false, reason)
        this.#surroundings.tell({ event: 'gone', name: this.name, id: served.id, reason })
        return false
      }
      if (performance.now() - triedAt >= ASK_MS) {
        triedAt = performance.now()
        void this.#passOnWarnings(served)
        if (await this.#tryToApply(served)) return true
      }
      if (await this.#pause(LOOK_MS)) triedAt = Number.NEGATIVE_INFINITY
    }
    return false
  }

  /** Those that this server had not told of when it was asked last. One that does not answer is asked again. */
  async #passOnWarnings({ id }: ServerState): Promise<void> {
    const asked = askServer<{ warnings?: Warning[] }>(this.#directory.socketPath(id), 'GET', '/stats', ANSWER_LIMIT_MS)
    const answer = await asked.catch(() => null)
    if (this.#isStopped) return
    const warnings = answer?.warnings ?? [] // an older version has none
    const isNew = ({ at, message }: Warning): boolean => !this.#warnings.some((told) => told.at === at && told.message === message)
    for (const { at, message } of warnings.filter(isNew)) this.#surroundings.tell({ event: 'warning', name: this.name, id, at, message })
    if (answer !== null) this.#warnings = warnings
  }

  async #tryToApply(served: ServerState): Promise<boolean> {
    try {
      // The server may have changed its record since.
      return await this.#apply(this.#directory.read(served.id) ?? served)
    } catch (error) {
      // It is tried again every few seconds, until FILE says something else.
      const { message } = reportOf(error)
      if (message !== this.#toldTrouble) this.#failed(0, error)
      this.#toldTrouble = message
      return false
    }
  }

  /** Makes the device what FILE says. Returns whether it is gone by that. */
  async #apply(state: ServerState): Promise<boolean> {
    const { id } = state
    const wish = await this.#wish(state)
    if (wish === null) return false
    if (wish === 'grow') {
      await this.#grow(id)
      return false
    }
    if (await isInUse(id)) {
      if (!this.#toldInUse) this.#surroundings.tell({ event: 'in-use', name: this.name, id, wish })
      this.#toldInUse = true
      return false
    }
    await removeDevice(id, { wait: true })
    this.#surroundings.tell({ event: 'removed', name: this.name, id })
    return true
  }

  /** Its server keeps the words, too: a size that `ublk resize` gives it later is no difference from them. */
  async #grow(id: number): Promise<void> {
    const { parseSize } = await import('ublk')
    const entry = this.#entry
    const size = String(entry.spec.device.size)
    const question = new URLSearchParams({ size: String(parseSize(size)) })
    for (const word of entry.spec.keeper.add) question.append('add', word)
    try {
      // Without an answer its server has just ended, and the next one is asked.
      if ((await askServer(this.#directory.socketPath(id), 'POST', `/resize?${question}`)) === null) return
    } catch (error) {
      if (REFUSALS.includes(reportOf(error).code)) this.#refused = entry
      throw error
    }
    this.#surroundings.tell({ event: 'resized', name: this.name, id, size })
  }

  async #wish({ spec }: ServerState): Promise<Wish> {
    if (!this.#isWanted) return 'remove'
    const wish = difference(spec, this.#entry.spec, await import('ublk'))
    return wish === 'grow' && this.#refused === this.#entry ? 'replace' : wish
  }

  /** The record of our device. */
  #find(): ServerState | null {
    const { file, name } = this.#entry.spec.keeper
    for (const id of this.#directory.ids()) {
      const state = this.#directory.read(id)
      if (state?.spec.keeper?.file === file && state.spec.keeper.name === name) return state
    }
    return null
  }

  /**
   * Whether the record is of a device that somebody has removed, or from before a restart of the machine's driver. The number may be another
   * program's by now, which serves it.
   */
  async #isForeign(state: ServerState): Promise<boolean> {
    const info = await this.#infoOf(state.id)
    if (info === null) return true
    // When its server has just ended it is live still, and nobody's.
    if (info.state !== 'live' || info.pid <= 0) return false
    // Whoever has taken it over by `ublk recover` says so in the record, before or after this look.
    const isTheirs = (record: ServerState | null): boolean => record !== null && record.pid !== info.pid
    return isTheirs(state) && isTheirs(this.#directory.read(state.id)) && (await this.#infoOf(state.id))?.pid === info.pid
  }

  async #stateOf(id: number): Promise<string | null> {
    return (await this.#infoOf(id))?.state ?? null
  }

  /** What the kernel says of a device; null for none. */
  async #infoOf(id: number): Promise<DeviceInfo | null> {
    const { deviceInfo } = await import('ublk')
    try {
      return await deviceInfo(id)
    } catch (error) {
      if ((error as { code?: string }).code === 'ERR_UBLK_NO_DEVICE') return null
      throw error
    }
  }

  #failed(tries: number, error: unknown): void {
    const { code, message, hint } = reportOf(error)
    this.#surroundings.tell({ event: 'failed', name: this.name, tries, error: { code, message, hint } })
    if (tries > 0) this.#turned(false, message)
  }

  async #backOff(tries: number): Promise<void> {
    const ms = pauseMs(this.#entry.restart, tries)
    const rarely = tries > this.#entry.restart.tries
    this.#surroundings.tell({ event: 'backoff', name: this.name, tries, ms, rarely })
    this.isGivenUp = rarely
    this.#surroundings.onChange()
    await this.#pause(ms)
  }

  #turned(isLive: boolean, trouble: string | null): void {
    this.isLive = isLive
    if (isLive) this.isGivenUp = false
    this.trouble = trouble
    this.#surroundings.onChange()
  }

  /** Returns true when it was cut short: FILE says something else, or stop. */
  async #pause(ms: number): Promise<boolean> {
    if (this.#isStopped) return true
    let timer: NodeJS.Timeout | undefined
    const woken = await new Promise<boolean>((resolve) => {
      this.#wake = () => resolve(true)
      timer = setTimeout(() => resolve(false), ms)
    })
    clearTimeout(timer)
    this.#wake = () => undefined
    return woken
  }
}

/** How long after failure number `tries` in a row the next try is. */
export function pauseMs({ delayMs, longestMs, tries: most, rarelyMs }: RestartLimits, tries: number): number {
  return tries > most ? rarelyMs : Math.min(delayMs * 2 ** (tries - 1), longestMs)
}

type Specs = Entry['spec']

/** What must happen to a device that was made by `is` for `wanted`; a size that `ublk resize` has changed is no difference. */
export function difference(is: ServerState['spec'], wanted: Specs, { parseSize }: Pick<typeof import('ublk'), 'parseSize'>): Wish {
  // The words are compared, and not what was read from them: another version may read the same words in another shape.
  if (JSON.stringify(is.keeper?.add) === JSON.stringify(wanted.keeper.add)) return null
  const shape = ({ target, device }: Pick<Specs, 'target' | 'device'>): string =>
    JSON.stringify([
      target,
      Object.entries(device)
        .filter(([key, value]) => key !== 'size' && value !== undefined)
        .sort(),
    ])
  if (shape(is) !== shape(wanted)) return 'replace'
  if (is.device.size === wanted.device.size) return null
  if (is.device.size === undefined || wanted.device.size === undefined) return 'replace'
  const [sizeIs, size] = [parseSize(is.device.size), parseSize(wanted.device.size)]
  return sizeIs === size ? null : sizeIs < size ? 'grow' : 'replace'
}

/** Whether somebody has the device open. Where the kernel can tell, it is stopped in the same step if nobody has. */
async function isInUse(id: number): Promise<boolean> {
  const { stopDevice } = await import('ublk')
  try {
    await stopDevice(id, { safe: true })
    return false
  } catch (error) {
    const { code } = error as { code?: string }
    if (code === 'ERR_UBLK_BUSY') return true
    // It is stopped already.
    if (code === 'ERR_UBLK_NO_DEVICE') return false
    if (code !== 'ERR_UBLK_UNSUPPORTED') throw error
  }
  return isClaimed(`/dev/ublkb${id}`)
}

/** Before Linux 7.0: whether it is mounted, swapped to, or below another device. Those open it for themselves alone. */
async function isClaimed(path: string): Promise<boolean> {
  const { constants } = await import('node:fs')
  try {
    await (await open(path, constants.O_RDONLY | constants.O_EXCL)).close()
    return false
  } catch (error) {
    const { code } = error as { code?: string }
    if (code === 'EBUSY') return true
    if (code === 'ENOENT' || code === 'ENXIO') return false
    throw error
  }
}
