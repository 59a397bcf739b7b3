/**
 * Runs the cells of the crash matrix on the kernel it is started on, and prints a line of JSON for each:
 * node test/crash/guest.ts [--some] [--only TEXT_OF_THE_NAMES]
 */
import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import path from 'node:path'
import { stdout } from 'node:process'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { type Device, deleteDevice, deviceInfo, type KernelState, listDevices, recoverDevice, stopDevice } from '../../src/index.ts'
import fileBackend from '../device/recovery-backend.ts'
import { kernelFlags, run, withDirectory } from '../device/support.ts'
import { Checker } from '../matrix/checker.ts'
import { SHARED_MEMORY } from '../matrix/table.ts'
import { makeSharedMemory } from '../matrix/targets.ts'
import { FileLoad, RequestLoad, type UserLoad } from './loads.ts'
import { Server, workerDevice } from './servers.ts'
import { allCells, type Cell, type CellResult, cellName, missingFlags, someCells } from './table.ts'

const SIZE = 32 << 20
/** Where no load writes, up to the end. */
const PROBED_FROM = 24 << 20
/** From one probe to the next, further than the kernel reads ahead of one block. */
const PROBE_STRIDE = 8192
/** None of this takes a second. A host with much else to do is not to be taken for a hang, though. */
const STATE_LIMIT_MS = 40_000
/** So long a request that is held back is seen to wait. */
const HELD_MS = 50
/** Requests before the server ends, and after it came back. */
const ENOUGH: Record<Cell['load'], number> = { idle: 30, verify: 30, flush: 10, files: 3 }

let seed = 1
let checker = new Checker()
const here = await kernelFlags()

const blockDevice = (id: number): string => `/dev/ublkb${id}`

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + STATE_LIMIT_MS
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`not within ${STATE_LIMIT_MS} ms: ${what}`)
    await delay(5)
  }
}

/** Waits until the load got somewhere, from where it is now. */
async function advance(load: UserLoad, more: number): Promise<void> {
  const { done } = await load.counts()
  await until(`${more} more requests`, async () => (await load.counts()).done >= done + more)
}

/** Starts the load, and waits until it is well under way. Where the device is to be idle, it is over before the server ends. */
async function startLoad({ load: kind, mode }: Cell, id: number): Promise<UserLoad> {
  const requests = kind === 'flush' ? 'flush' : 'verify'
  const shared = mode === 'shmem' ? SHARED_MEMORY : undefined
  const load =
    kind === 'files' ? await FileLoad.start(blockDevice(id)) : await RequestLoad.start(checker, blockDevice(id), requests, seed++, shared)
  await advance(load, ENOUGH[kind])
  if (kind !== 'idle') return load
  const { failed } = await load.settle()
  if (failed > 0) throw new Error(`${failed} requests failed before anything happened`)
  return load
}

/** The device serves no more, for good: the load must hear of it. */
async function settleFailing({ load: kind }: Cell, load: UserLoad): Promise<void> {
  if (kind === 'idle') return
  await until('a request fails', async () => (await load.counts()).failed > 0)
  await load.settle()
}

async function stateIs(id: number, wanted: KernelState): Promise<void> {
  await until(`device ${id} is ${wanted}`, async () => (await deviceInfo(id)).state === wanted)
}

const isGone = async (id: number): Promise<boolean> => !(await listDevices()).some((device) => device.id === id)

/** There is no block device: nobody can open it, and what its users send fails. */
async function isDead(id: number): Promise<void> {
  await stateIs(id, 'dead')
  await until(`block device ${id} is gone`, () => !existsSync(`/sys/block/ublkb${id}`))
}

/** A read that no cache answers: what became of it, or undefined when nothing did yet. */
class Probe {
  static #count = 0
  #outcome: 'answered' | NodeJS.ErrnoException | undefined
  #ended: Promise<void>

  constructor(id: number) {
    this.#ended = this.#read(id).then(
      () => {
        this.#outcome = 'answered'
      },
      (error: NodeJS.ErrnoException) => {
        this.#outcome = error
      },
    )
  }

  async #read(id: number): Promise<void> {
    const handle = await open(blockDevice(id), 'r')
    // Each reads a block of its own: while udev has the device open, the cache keeps what was read before.
    const offset = PROBED_FROM + ((Probe.#count++ * PROBE_STRIDE) % (SIZE - PROBED_FROM))
    try {
      await handle.read(Buffer.alloc(4096), 0, 4096, offset)
    } finally {
      await handle.close()
    }
  }

  /** Within the time after which a request counts as held back. */
  async isAnsweredSoon(): Promise<boolean> {
    await Promise.race([this.#ended, delay(HELD_MS)])
    return this.#outcome === 'answered'
  }

  async isHeldBack(): Promise<void> {
    await delay(HELD_MS)
    if (this.#outcome !== undefined) throw new Error(`a new request is not held back: ${this.#outcome}`)
  }

  async isAnswered(): Promise<void> {
    await this.isOver()
    if (this.#outcome !== 'answered') throw new Error(`a new request is not answered: ${this.#outcome}`)
  }

  async isRefused(): Promise<void> {
    await this.isOver()
    if (this.#outcome === 'answered' || this.#outcome?.code !== 'EIO')
      throw new Error(`a new request does not fail with EIO: ${this.#outcome}`)
  }

  async isOver(): Promise<void> {
    await Promise.race([this.#ended, delay(STATE_LIMIT_MS, undefined, { ref: false })])
    if (this.#outcome === undefined) throw new Error('a request hangs')
  }
}

/** Without a server: what the policy does with new requests, until `recover` has brought the next one. */
async function recoverWhileUsed<T>(id: number, recovery: Cell['recovery'], recover: () => Promise<T>): Promise<T> {
  await stateIs(id, recovery === 'fail-io' ? 'fail_io' : 'quiesced')
  const probe = new Probe(id)
  if (recovery === 'fail-io') await probe.isRefused()
  else await probe.isHeldBack()
  const next = await recover()
  await stateIs(id, 'live')
  if (recovery !== 'fail-io') await probe.isAnswered()
  await new Probe(id).isAnswered()
  return next
}

/**
 * What the policy lets the requests of a killed server come to: one for each thread was open, on a slow device for certain; and where
 * requests fail meanwhile, those that came then failed, too.
 */
function checkFailures({ recovery, load }: Cell, failed: number): void {
  const most = { off: Number.POSITIVE_INFINITY, requeue: RequestLoad.THREADS, reissue: 0, 'fail-io': Number.POSITIVE_INFINITY }[recovery]
  const least = recovery === 'fail-io' || (recovery === 'requeue' && load === 'flush') ? 1 : 0
  if (load !== 'files' && failed > most) throw new Error(`${failed} requests failed with ${recovery}, which are more than ${most}`)
  if (load === 'files' && recovery === 'reissue' && failed > 0) throw new Error(`${failed} files failed with reissue`)
  if (failed < least) throw new Error(`no request failed with ${recovery}, though some were open`)
}

/**
 * Whoever served it is gone: what the policy promises, up to the load's end. `recover` brings the next server.
 * @param isSudden no request failed before, so that the policy alone decides how many may
 */
async function outlive(
  cell: Cell,
  id: number,
  load: UserLoad,
  isSudden: boolean,
  recover: () => Promise<{ end(): Promise<void> }>,
): Promise<void> {
  if (cell.recovery === 'off') {
    await isDead(id)
    await settleFailing(cell, load)
    await deleteDevice(id)
    return
  }
  const next = await recoverWhileUsed(id, cell.recovery, recover)
  if (cell.load !== 'idle') {
    // A file system that saw an error writes no more.
    if (cell.load !== 'files' || (await load.counts()).failed === 0) await advance(load, ENOUGH.flush)
    const { failed } = await load.settle()
    if (isSudden) checkFailures(cell, failed)
  }
  await load.examine(blockDevice(id))
  await next.end()
}

/**
 * Reads from a device that is idle until the target panics, which it may be told after the first read. A request of udev's may come before;
 * then the last read waits for the next server.
 */
async function probeIntoPanic(id: number): Promise<Probe> {
  let probe = new Probe(id)
  await until('the target panics', async () => {
    if (!(await probe.isAnsweredSoon())) return true
    probe = new Probe(id)
    return false
  })
  return probe
}

/** Ends the server, and answers with the load that ran meanwhile. */
const ends: Record<Cell['end'], (cell: Cell, image: string) => Promise<UserLoad>> = {
  async 'kill -9'(cell, image) {
    const server = await Server.native(image, cell)
    const load = await startLoad(cell, server.id)
    await server.kill()
    await outlive(cell, server.id, load, true, () => Server.native(image, cell, server.id))
    return load
  },

  /** A panic is caught: the requests of that thread fail, and the device is as after a kill, though the process lives on. */
  async panic(cell, image) {
    const server = await Server.native(image, cell)
    const load = await startLoad(cell, server.id)
    server.say('panic')
    const probe = cell.load === 'idle' ? await probeIntoPanic(server.id) : undefined
    // Of a file system it may be a request that no file waits for.
    if (cell.load === 'verify' || cell.load === 'flush') await until('a request fails', async () => (await load.counts()).failed > 0)
    // Before Linux 6.16 the device is stopped, whatever its recovery.
    const policy = here.has('QUIESCE') ? cell.recovery : 'off'
    await stateIs(server.id, AFTER_DEATH[policy])
    if (server.hasEnded()) throw new Error('the panic ended the process')
    await server.kill()
    await outlive({ ...cell, recovery: policy }, server.id, load, false, () => Server.native(image, cell, server.id))
    await probe?.isOver()
    return load
  },

  async stop(cell, image) {
    const server = await Server.native(image, cell)
    const load = await startLoad(cell, server.id)
    await stopDevice(server.id)
    await isDead(server.id)
    await settleFailing(cell, load)
    await server.endsWith(0)
    await deleteDevice(server.id)
    return load
  },

  async delete(cell, image) {
    const server = await Server.native(image, cell)
    const load = await startLoad(cell, server.id)
    await deleteDevice(server.id)
    await settleFailing(cell, load)
    await server.endsWith(0)
    await until(`device ${server.id} is gone`, () => isGone(server.id))
    return load
  },

  async 'worker death'(cell, image) {
    const order = new SharedArrayBuffer(1)
    const device = await workerDevice(image, SIZE, cell, order)
    const told = new Promise<Error>((resolve) => device.on('error', resolve))
    const load = await startLoad(cell, device.id)
    Atomics.store(new Uint8Array(order), 0, 1)
    await told
    if (cell.recovery === 'off') {
      await device.waitFor('closed', { timeoutMs: STATE_LIMIT_MS })
      await settleFailing(cell, load)
      return load
    }
    await outlive(cell, device.id, load, true, async () =>
      closable(await recoverDevice(device.id, { backend: fileBackend({ path: image, size: SIZE }) })),
    )
    return load
  },

  /** The second one leaves the last resort a tenth of a second. What it does not reach goes the way of a kill. */
  async 'two signals'(cell, image) {
    const server = await Server.node(image, cell)
    const load = await startLoad(cell, server.id)
    server.signal('SIGTERM')
    server.signal('SIGINT')
    await server.endsWith('SIGTERM', 'SIGINT')
    const state = await lastState(server.id)
    if (state === AFTER_DEATH[cell.recovery] && state !== 'dead') {
      await outlive(cell, server.id, load, false, () => Server.native(image, cell, server.id))
      return load
    }
    if (state === 'dead') await deleteDevice(server.id)
    else if (state !== 'gone') throw new Error(`the device is ${state} after the end of its server`)
    await settleFailing(cell, load)
    return load
  },

  /** It ends as after one signal: with 0, or with 1 when its users have not let go of the device so soon; then the kernel removes it later. */
  async 'two signals, ublk add'(cell, image) {
    const server = await Server.cli(image, cell)
    const load = await startLoad(cell, server.id)
    server.signal('SIGTERM')
    server.signal('SIGINT')
    await (cell.load === 'idle' ? server.endsWith(0) : server.endsWith(0, 1))
    await settleFailing(cell, load)
    await until(`device ${server.id} is gone`, () => isGone(server.id))
    return load
  },
}

/** The state of a device without a server. */
const AFTER_DEATH: Record<Cell['recovery'], KernelState> = { off: 'dead', requeue: 'quiesced', reissue: 'quiesced', 'fail-io': 'fail_io' }

/** The driver works off the end of a server in its own time. */
async function lastState(id: number): Promise<KernelState | 'gone'> {
  let state: KernelState | 'gone' = 'live'
  await until(`device ${id} is not live`, async () => {
    state = (await isGone(id)) ? 'gone' : (await deviceInfo(id)).state
    return state !== 'live'
  })
  return state
}

const closable = (device: Device): { end(): Promise<void> } => ({ end: () => device.close() })

/** Processes that cannot be killed now; the kernel's own threads have no command line. */
function stuckProcesses(): string[] {
  const ids = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  return ids.filter((id) => {
    try {
      return readFileSync(`/proc/${id}/cmdline`).length > 0 && /^State:\s+D/m.test(readFileSync(`/proc/${id}/status`, 'utf8'))
    } catch {
      return false // it has ended meanwhile
    }
  })
}

const TROUBLE = /BUG:|WARNING:|Oops|general protection|blocked for more than|lockup|KASAN|UBSAN/
/** The kernel's own, on 7.2: it indexes the pages of a registered request past a length that it never declared. */
const KNOWN_TROUBLE = /UBSAN: array-index-out-of-bounds in .*io_uring\/rsrc\.c/
let complaints = 0

/** What the kernel complained of since the last cell. */
async function newComplaints(): Promise<string[]> {
  const lines = (await run('dmesg')).split('\n').filter((line) => TROUBLE.test(line) && !KNOWN_TROUBLE.test(line))
  const fresh = lines.slice(complaints)
  complaints = lines.length
  return fresh
}

/** Nodes, records, sockets, and processes that serve. */
function orphans(): string[] {
  const nodes = readdirSync('/dev').filter((name) => /^ublk[bc]\d+/.test(name))
  const records = existsSync('/run/ublk') ? readdirSync('/run/ublk').filter((name) => /\.(json|sock)$/.test(name)) : []
  return [...nodes, ...records, ...Server.running()]
}

async function nothingIsLeft(): Promise<void> {
  // The driver removes a device when the last of those who looked at it, udev among them, lets go.
  await until('no device is left', async () => (await listDevices()).length === 0)
  await until('no orphan is left', () => orphans().length === 0).catch((error: Error) => {
    throw new Error(`${error.message}, but ${orphans().join(', ')}`)
  })
  await until('no process is stuck', () => stuckProcesses().length === 0)
  const fresh = await newComplaints()
  if (fresh.length > 0) throw new Error(`the kernel complained: ${fresh[0]}`)
}

/** After a cell that failed. */
async function clearAway(): Promise<void> {
  Server.killAll()
  await FileLoad.abandonAll()
  for (const { id } of await listDevices()) await deleteDevice(id)
  await until('no process is stuck', () => stuckProcesses().length === 0)
}

/** A cell left what cannot be cleared away: the next ones would say nothing of their own. */
let isLost = false

/** A process whose requests hang in the kernel cannot end, and neither can the machine in the usual way. */
async function switchOff(): Promise<void> {
  await delay(1000) // for what was printed
  writeFileSync('/proc/sysrq-trigger', 'b')
}

async function runCell(cell: Cell): Promise<void> {
  await withDirectory(async (directory) => {
    const image = path.join(directory, 'image')
    writeFileSync(image, '')
    truncateSync(image, SIZE)
    try {
      const load = await ends[cell.end](cell, image)
      await load.examine(image)
      await nothingIsLeft()
    } catch (error) {
      isLost = await clearAway().then(
        () => false,
        () => true,
      )
      throw error
    }
  })
}

const { values } = parseArgs({ options: { some: { type: 'boolean', default: false }, only: { type: 'string', default: '' } } })
if (here.has('SHMEM_ZC')) await makeSharedMemory()
await newComplaints()
for (const cell of (values.some ? someCells() : allCells()).filter((cell) => cellName(cell).includes(values.only))) {
  const missing = missingFlags(cell, (flag) => here.has(flag)).join(', ')
  let result: CellResult = { cell, outcome: 'skipped', reason: missing }
  if (missing === '') {
    result = await runCell(cell).then(
      (): CellResult => ({ cell, outcome: 'passed', reason: '' }),
      (error: Error): CellResult => ({ cell, outcome: 'failed', reason: error.message }),
    )
  }
  stdout.write(`${JSON.stringify(result)}\n`)
  if (isLost) await switchOff()
  if (result.outcome === 'failed') {
    await checker.close()
    checker = new Checker()
  }
}
await checker.close()
