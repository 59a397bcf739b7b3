/**
 * Runs the cells of the crash matrix on the kernel it is started on, and prints a line of JSON for each:
 * node test/crash/guest.ts [--some] [--only TEXT_OF_THE_NAMES]
 */
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { stdout } from 'node:process'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import {
  type Device,
  deleteDevice,
  deviceInfo,
  features,
  type KernelState,
  listDevices,
  recoverDevice,
  stopDevice,
} from '../../src/index.ts'
import fileBackend from '../device/recovery-backend.ts'
import { run, withDirectory } from '../device/support.ts'
import { Checker } from '../matrix/checker.ts'
import { Server, workerDevice } from './servers.ts'
import { allCells, type Cell, type CellResult, cellName, missingFlags, someCells } from './table.ts'

const SIZE = 4 << 20
const THREADS = 3
/** None of this takes a second. A host with much else to do is not to be taken for a hang, though. */
const STATE_LIMIT_MS = 40_000
const CHECK_LIMIT_MS = 40_000
const SETTLE_MS = 20_000
/** Requests before the server ends, and after it came back. */
const ENOUGH = 30

let seed = 1
let checker = new Checker()

const ask = (line: string): Promise<number[]> => checker.ask(line, CHECK_LIMIT_MS)
const blockDevice = (id: number): string => `/dev/ublkb${id}`

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + STATE_LIMIT_MS
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`not within ${STATE_LIMIT_MS} ms: ${what}`)
    await delay(5)
  }
}

const progress = async (): Promise<{ done: number; failed: number }> => {
  const [done = 0, failed = 0] = await ask('progress')
  return { done, failed }
}

/** Waits until the load got somewhere, from where it is now. */
async function advance(requests: number): Promise<void> {
  const { done } = await progress()
  await until(`${requests} more requests`, async () => (await progress()).done >= done + requests)
}

/** Starts the load. Where the device is to be idle, it is over before the server ends. */
async function startLoad({ load }: Cell, id: number): Promise<void> {
  await ask(`load ${blockDevice(id)} ${load === 'flush' ? 'flush' : 'verify'} seed=${seed++} threads=${THREADS}`)
  await advance(load === 'flush' ? ENOUGH / 3 : ENOUGH)
  if (load === 'idle') await settle()
}

async function settle(): Promise<number> {
  const [, failed = 0] = await ask(`settle limit_ms=${SETTLE_MS}`)
  return failed
}

async function stateIs(id: number, wanted: KernelState): Promise<void> {
  await until(`device ${id} is ${wanted}`, async () => (await deviceInfo(id)).state === wanted)
}

const isGone = async (id: number): Promise<boolean> => !(await listDevices()).some((device) => device.id === id)

/**
 * Whoever served it is gone: what the policy promises, up to the load's end. `recover` brings the next server.
 * @param isSudden no request failed before, so that the policy alone decides how many may
 */
async function outlive(cell: Cell, id: number, isSudden: boolean, recover: () => Promise<{ end(): Promise<void> }>): Promise<void> {
  const { recovery, load } = cell
  if (recovery === 'off') {
    await stateIs(id, 'dead')
    if (load !== 'idle') await settle()
    await deleteDevice(id)
    return
  }
  await stateIs(id, recovery === 'fail-io' ? 'fail_io' : 'quiesced')
  const next = await recover()
  await stateIs(id, 'live')
  if (load !== 'idle') {
    await advance(ENOUGH / 3)
    const failed = await settle()
    if (isSudden && recovery === 'reissue' && failed > 0) throw new Error(`${failed} requests failed, of which none may with reissue`)
    // What was in flight, one request for each thread.
    if (isSudden && recovery === 'requeue' && failed > THREADS)
      throw new Error(`${failed} requests failed with requeue, more than were in flight`)
  }
  await ask(`examine ${blockDevice(id)}`)
  await next.end()
}

const ends: Record<Cell['end'], (cell: Cell, image: string) => Promise<void>> = {
  async 'kill -9'(cell, image) {
    const server = await Server.native(image, cell)
    await startLoad(cell, server.id)
    await server.kill()
    await outlive(cell, server.id, true, () => Server.native(image, cell, server.id))
  },

  /** A panic is caught: the requests of that thread fail, the process lives on. Then it is killed. */
  async panic(cell, image) {
    const server = await Server.native(image, cell)
    await startLoad(cell, server.id)
    server.say('panic')
    if (cell.load === 'idle') await mustFail(server.id)
    else await until('a request fails', async () => (await progress()).failed > 0)
    if (server.hasEnded()) throw new Error('the panic ended the process')
    await server.kill()
    await outlive(cell, server.id, false, () => Server.native(image, cell, server.id))
  },

  async stop(cell, image) {
    const server = await Server.native(image, cell)
    await startLoad(cell, server.id)
    await stopDevice(server.id)
    await stateIs(server.id, 'dead')
    if (cell.load !== 'idle') await settle()
    await server.ended()
    await deleteDevice(server.id)
  },

  async delete(cell, image) {
    const server = await Server.native(image, cell)
    await startLoad(cell, server.id)
    await deleteDevice(server.id)
    if (cell.load !== 'idle') await settle()
    await server.ended()
    await until(`device ${server.id} is gone`, () => isGone(server.id))
  },

  async 'worker death'(cell, image) {
    const order = new SharedArrayBuffer(1)
    const device = await workerDevice(image, SIZE, cell, order)
    const told = new Promise<Error>((resolve) => device.on('error', resolve))
    await startLoad(cell, device.id)
    Atomics.store(new Uint8Array(order), 0, 1)
    await told
    if (cell.recovery === 'off') {
      await device.waitFor('closed', { timeoutMs: STATE_LIMIT_MS })
      if (cell.load !== 'idle') await settle()
      return
    }
    await outlive(cell, device.id, true, async () =>
      closable(await recoverDevice(device.id, { backend: fileBackend({ path: image, size: SIZE }) })),
    )
  },

  async 'two signals'(cell, image) {
    const server = await Server.node(image, cell)
    await startLoad(cell, server.id)
    server.signal('SIGTERM')
    server.signal('SIGINT')
    await server.ended()
    // The second one leaves the last resort a tenth of a second. What it does not reach goes the way of a kill: dead, or by the policy.
    if (!(await isGone(server.id))) {
      await until(`device ${server.id} is not live`, async () => (await deviceInfo(server.id)).state !== 'live')
      await deleteDevice(server.id)
    }
    if (cell.load !== 'idle') await settle()
  },
}

const closable = (device: Device): { end(): Promise<void> } => ({ end: () => device.close() })

async function mustFail(id: number): Promise<void> {
  const reading = run('dd', `if=${blockDevice(id)}`, 'of=/dev/null', 'bs=4096', 'count=1', 'iflag=direct')
  if (
    await reading.then(
      () => true,
      () => false,
    )
  )
    throw new Error('a request that panics the target succeeded')
}

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

async function nothingIsLeft(): Promise<void> {
  // The driver removes a device when the last of those who looked at it, udev among them, lets go.
  await until('no device is left', async () => (await listDevices()).length === 0)
  await until('no process is stuck', () => stuckProcesses().length === 0)
  const fresh = await newComplaints()
  if (fresh.length > 0) throw new Error(`the kernel complained: ${fresh[0]}`)
}

/** After a cell that failed. */
async function clearAway(): Promise<void> {
  Server.killAll()
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
      await ends[cell.end](cell, image)
      await ask(`examine ${image}`)
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
const here = new Set((await features()).flags.filter((flag) => flag.here).map(({ name }) => name.replace('UBLK_F_', '')))
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
