/** `ublk stats` of servers that answer and of others that do not: records and sockets as theirs, without a device. */

import { createServer } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import { ownIdentity } from '../src/lib/process.ts'
import { StateDirectory } from '../src/lib/state.ts'
import { listen } from '../src/lib/status-server.ts'
import { type Outcome, temporaryDirectory, ublk } from './program.ts'

/** Loaded first: the state directory is `STATE`, whoever runs this. */
const ELSEWHERE = `
  import { StateDirectory } from '${new URL('../src/lib/state.ts', import.meta.url)}'
  StateDirectory.forUser = () => new StateDirectory(process.env.STATE)
`

type Answer = (id: number) => Promise<object>

const counters: Answer = async (id) => ({ id, path: `/dev/ublkb${id}`, size: 1 << 20, operations: {}, inFlight: 0, legs: [], warnings: [] })

/** Runs `ublk stats ARGS…` where device N has the server number N: one that answers, or null for one that takes calls and says nothing. */
async function statsWith(t: ExecutionContext, servers: (Answer | null)[], ...args: string[]): Promise<Outcome> {
  const { path, remove } = temporaryDirectory()
  t.teardown(remove)
  const directory = new StateDirectory(path)
  const spec = { target: { type: 'null' as const }, device: {} }
  for (const [id, stats] of servers.entries()) {
    directory.write({ version: '0', id, ...ownIdentity(), startedAt: '', spec })
    const close = stats === null ? await listenInSilence(directory.socketPath(id)) : await serve(directory.socketPath(id), () => stats(id))
    t.teardown(close)
  }
  const NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(ELSEWHERE)}`
  return ublk(['stats', ...args], { env: { NODE_OPTIONS, STATE: path } })
}

async function serve(socket: string, stats: () => Promise<object>): Promise<() => void> {
  const nothing = async (): Promise<never> => Promise.reject(new Error('nobody asks for that'))
  const others = { info: nothing, metrics: nothing, stop: nothing, quiesce: nothing, resize: nothing }
  const { close } = await listen(socket, { stats, ...others, sharedMemory: nothing, share: nothing, unshare: nothing })
  return close
}

async function listenInSilence(socket: string): Promise<() => void> {
  const silent = createServer((caller) => caller.on('error', () => undefined))
  await new Promise<void>((resolve) => silent.listen(socket, resolve))
  return () => silent.close()
}

const failing: Answer = async () => Promise.reject(Object.assign(new Error('out of order'), { code: 'ERR_UBLK_BACKEND' }))

test.serial('the devices whose servers answer are shown, and the error names those whose do not', async (t) => {
  const { status, stdout, stderr } = await statsWith(t, [counters, null, counters, null])
  t.is(status, 7, stderr)
  t.regex(stdout, /^device 0 \(.*\n(.*\n)*device 2 \(/)
  t.notRegex(stdout, /device [13]|no device/)
  t.regex(stderr, /^ublk: device 1: the server at .*1\.sock did not answer within \d+ ms; device 3: .*\nhint: [^\n]+\n$/)
})

test.serial('--json has them and the error in one value', async (t) => {
  const { status, stdout, stderr } = await statsWith(t, [counters, failing, null], '--json')
  t.is(status, 1, stdout)
  t.is(stderr, '')
  const { devices, error } = JSON.parse(stdout)
  t.deepEqual(devices, [await counters(0)])
  t.like(error, { code: 'ERR_UBLK_BACKEND', hint: null, exitCode: 1 })
  t.regex(error.message, /^device 1: out of order; device 2: the server at /)
})

test.serial('when all answer, or there is none, nothing fails', async (t) => {
  const all = await statsWith(t, [counters, counters], '--json')
  t.is(all.status, 0, all.stderr)
  t.deepEqual(JSON.parse(all.stdout), { devices: [await counters(0), await counters(1)] })
  const none = await statsWith(t, [])
  t.like(none, { status: 0, stdout: 'no device is served by this program\n' })
})
