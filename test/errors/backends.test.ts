/** JavaScript backends: those that do not open, those that misbehave while they serve, and processes that end. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import test, { type ExecutionContext } from 'ava'
import { start } from '../../cli/test/program.ts'
import {
  createDevice,
  type DeviceOptions,
  type DeviceState,
  deleteDevice,
  deviceInfo,
  listDevices,
  type UblkError,
  worker,
} from '../../src/index.ts'
import misbehaving, { BAD_OFFSET } from './misbehaving.ts'
import { direct, Report } from './observe.ts'

const report = new Report('backends')
const directory = mkdtempSync(path.join(tmpdir(), 'ublk-errors-'))
report.conceal(directory, '/data')
test.after.always(() => report.write())

test.serial('a backend that does not open', async (t) => {
  const backend = {
    size: 1 << 20,
    read() {},
    open: () => Promise.reject(new Error('connection refused')),
  }
  await report.provoke(t, 'modules', { what: '`open` rejects on the main thread', library: () => createDevice({ backend }) })
  const module = path.join(directory, 'module.mjs')
  writeFileSync(module, "export default { size: '1M', read() {}, async open() { throw new Error('connection refused') } }")
  await report.provoke(t, 'modules', {
    what: '`open` rejects',
    library: () => createDevice({ backend: module }),
    command: { args: ['add', module] },
  })
  t.deepEqual(await listDevices(), [])
})

const MODULE = new URL('./misbehaving.ts', import.meta.url)
type Where = 'main thread' | 'worker' | 'sync worker'

function makeBackend(where: Where, does: string): DeviceOptions['backend'] {
  if (where === 'main thread') return misbehaving({ does })
  return worker(MODULE, { options: { does, sync: where === 'sync worker' } })
}

interface ServingCase {
  what: string
  does: string
  where: Where[]
  answer: string
  /** The device's state in the end; default 'live'. */
  finalState?: DeviceState
  options?: Partial<DeviceOptions>
}

const BOTH: Where[] = ['main thread', 'worker']
const EVERYWHERE: Where[] = ['main thread', 'worker', 'sync worker']

const SERVING_CASES: ServingCase[] = [
  { what: 'A handler throws', does: 'throws', where: EVERYWHERE, answer: 'EIO' },
  { what: 'A handler throws an error with `code`', does: 'throws ENOSPC', where: EVERYWHERE, answer: 'ENOSPC' },
  { what: 'A handler throws an error with `errno`', does: 'throws errno', where: EVERYWHERE, answer: 'ENODATA' },
  { what: 'A handler throws an errno that the block layer does not know', does: 'throws EROFS', where: ['main thread'], answer: 'EIO' },
  { what: 'A handler rejects with the code `ETIMEDOUT`', does: 'rejects', where: BOTH, answer: 'ETIMEDOUT' },
  { what: 'A handler returns a negative errno', does: 'returns errno', where: EVERYWHERE, answer: 'ENOSPC' },
  { what: 'A handler returns more bytes than asked for', does: 'returns too much', where: BOTH, answer: 'EIO' },
  { what: 'A handler returns no number', does: 'returns text', where: BOTH, answer: 'EIO' },
  { what: 'A handler returns 0 bytes', does: 'returns nothing done', where: BOTH, answer: 'EIO' },
  { what: 'A handler with `sync: true` returns a promise', does: 'returns a promise', where: ['sync worker'], answer: 'EIO' },
  { what: 'A handler never answers', does: 'never answers', where: BOTH, answer: 'ETIMEDOUT', options: { requestTimeoutMs: 500 } },
  {
    what: 'A handler blocks its thread for ever',
    does: 'spins',
    where: ['worker', 'sync worker'],
    answer: 'EIO',
    finalState: 'closed',
    options: { requestTimeoutMs: 500 },
  },
  { what: 'The worker exits', does: 'exits', where: ['worker', 'sync worker'], answer: 'EIO', finalState: 'closed' },
  { what: 'An uncaught error in the worker', does: 'fails later', where: ['worker'], answer: 'EIO', finalState: 'closed' },
]

/** Reads the bad place of a device. The answer, and what the device had to say. */
async function provokeServing({ does, finalState = 'live', options = {} }: ServingCase, where: Where) {
  const told: UblkError[] = []
  let timeouts = 0
  const device = await createDevice({ backend: makeBackend(where, does), ...options })
  device.on('error', (error) => told.push(error)).on('timeout', () => timeouts++)
  try {
    const answer = await direct('read', device.path, BAD_OFFSET)
    await device.waitFor(finalState, { timeoutMs: 20_000 })
    // Events come a turn later.
    await new Promise((resolve) => setTimeout(resolve, 50))
    return { answer, told, timeouts }
  } finally {
    await device.close()
  }
}

for (const one of SERVING_CASES) {
  test.serial(one.what, async (t) => {
    const rows: string[][] = []
    for (const where of one.where) {
      const { answer, told, timeouts } = await provokeServing(one, where)
      t.is(answer, one.answer, where)
      for (const error of told) t.regex(error.message, /^[^\n]+$/)
      const events = [...told.map(({ code, message }) => `\`${code}\`: ${message}`), ...(timeouts > 0 ? ['event `timeout`'] : [])]
      rows.push([where, `\`${answer}\``, events.join('<br>'), `\`${one.finalState ?? 'live'}\``])
    }
    addMerged(one.what, rows)
    t.deepEqual(await listDevices(), [])
  })
}

/** One row for all places where the same happens. */
function addMerged(what: string, rows: string[][]): void {
  const places = new Map<string, string[]>()
  for (const [where = '', ...cells] of rows) {
    const key = JSON.stringify(cells)
    places.set(key, [...(places.get(key) ?? []), where])
  }
  for (const [key, where] of places) report.add('serving', what, where.join(', '), ...(JSON.parse(key) as string[]))
}

test.serial('a worker that dies while its device is recoverable', async (t) => {
  const device = await createDevice({ backend: makeBackend('worker', 'exits'), recovery: 'requeue' })
  t.teardown(() => deleteDevice(device.id).catch(() => {}))
  const told = once(device, 'error') as Promise<[UblkError]>
  const reading = direct('read', device.path, BAD_OFFSET)
  const [{ code, message }] = await told
  await device.waitFor('quiesced', { timeoutMs: 20_000 })
  // The kernel keeps the request for the next server; there is none, so it ends with the device.
  await deleteDevice(device.id)
  t.is(await reading, 'EIO')
  await device.close()
  report.add(
    'serving',
    "The worker exits, `recovery: 'requeue'`",
    'worker',
    'waits for the next server',
    `\`${code}\`: ${message}`,
    '`quiesced`',
  )
})

test.serial('the program in the foreground, when its worker dies', async (t) => {
  const program = start(['add', MODULE.pathname, '--set', 'does=exits', '--foreground'])
  t.is(await direct('read', await program.firstLine, BAD_OFFSET), 'EIO')
  const { status, stderr } = await program.outcome
  t.is(status, 1)
  const [line = '', ...more] = stderr.trim().split('\n')
  t.regex(line, /^ublk: /)
  t.deepEqual(await listDevices(), [])
  report.add(
    'ends',
    '`ublk add MODULE --foreground`, and its worker exits',
    `exit status ${status}: ${[line, ...more].join('<br>').replaceAll('ublk: ', '')}`,
    '`EIO`',
    'removed',
  )
})

/** A process that serves on its main thread, with a request open that misbehaves: how it ends, what the reader gets. */
async function endOfProcess(t: ExecutionContext, does: string, provoke: (server: ChildProcess) => void, end: string): Promise<void> {
  const program = `
    const { createDevice } = await import(${JSON.stringify(new URL('../../src/index.ts', import.meta.url).href)})
    const { default: misbehaving } = await import(${JSON.stringify(MODULE.href)})
    const device = await createDevice({ backend: misbehaving({ does: ${JSON.stringify(does)} }) })
    console.log(device.path)`
  const server = spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = once(server, 'exit') as Promise<[number | null, string | null]>
  const [line] = (await once(server.stdout, 'data')) as [Buffer]
  const reading = direct('read', line.toString().trim(), BAD_OFFSET)
  provoke(server)
  const [status, signal] = await ended
  const answer = await reading
  t.is(answer, 'EIO')
  t.deepEqual(await listDevices(), [])
  report.add('ends', end, signal === null ? `exit status ${status}` : `\`${signal}\``, `\`${answer}\``, 'removed')
}

const soon = (send: () => void): void => void setTimeout(send, 1000)

test.serial('process.exit in a handler', (t) => endOfProcess(t, 'exits', () => {}, 'A handler on the main thread calls `process.exit(3)`'))
test.serial('an uncaught error', (t) => endOfProcess(t, 'fails later', () => {}, 'An uncaught error on the main thread'))
test.serial('SIGTERM', (t) => endOfProcess(t, 'never answers', (server) => soon(() => server.kill('SIGTERM')), 'SIGTERM'))
test.serial('SIGINT', (t) => endOfProcess(t, 'never answers', (server) => soon(() => server.kill('SIGINT')), 'SIGINT'))

test.serial('SIGKILL', async (t) => {
  const program = `
    const { createDevice } = await import(${JSON.stringify(new URL('../../src/index.ts', import.meta.url).href)})
    const { default: misbehaving } = await import(${JSON.stringify(MODULE.href)})
    console.log((await createDevice({ backend: misbehaving({ does: 'never answers' }) })).path)`
  const server = spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [line] = (await once(server.stdout, 'data')) as [Buffer]
  const reading = direct('read', line.toString().trim(), BAD_OFFSET)
  await new Promise((resolve) => setTimeout(resolve, 500))
  server.kill('SIGKILL')
  const answer = await reading
  const id = Number(/\d+$/.exec(line.toString().trim())?.[0])
  t.is(answer, 'EIO')
  // The kernel stops the device by itself, after it has answered.
  const deadline = performance.now() + 10_000
  while ((await deviceInfo(id)).state !== 'dead') if (performance.now() > deadline) throw new Error('the device is not dead after 10 s')
  report.add('ends', 'SIGKILL', '`SIGKILL`', `\`${answer}\``, '`dead`; `ublk del` removes it')
  await deleteDevice(id)
})
