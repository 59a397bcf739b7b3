/** What `ublk serve` does about a size in FILE: with a record and a socket as those of a server, and without a driver. */

import fs from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import { registerHooks, syncBuiltinESMExports } from 'node:module'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { ownIdentity } from '../src/lib/process.ts'
import type { ServeEvent } from '../src/lib/serve-events.ts'
import { DEFAULT_RESTART, type Entry } from '../src/lib/serve-file.ts'
import { Spare } from '../src/lib/spare.ts'
import { StateDirectory } from '../src/lib/state.ts'
import { temporaryDirectory } from './program.ts'

/** Every device is live, this process's, and open. */
const DRIVER = `
  export { parseSize } from '${new URL('../../src/size.ts', import.meta.url)}'
  export const deviceInfo = async (id) => ({ id, state: 'live', pid: ${process.pid} })
  export const stopDevice = async () => {
    throw Object.assign(new Error('it is open'), { code: 'ERR_UBLK_BUSY' })
  }
`
registerHooks({
  resolve: (specifier, context, next) =>
    specifier === 'ublk'
      ? { url: `data:text/javascript,${encodeURIComponent(DRIVER)}`, format: 'module', shortCircuit: true }
      : next(specifier, context),
})
const { existsSync } = fs
fs.existsSync = (path) => String(path).startsWith('/sys/block/ublkb') || existsSync(path)
syncBuiltinESMExports()
const { KeptDevice } = await import('../src/lib/kept-device.ts')

/** It looks every 5 s at what there is to do. */
const NEXT_LOOK_MS = 5_500

const entryOf = (size: string): Entry => ({
  name: 'disk',
  spec: {
    target: { type: 'file', path: '/x', direct: false, create: true },
    device: { size, recovery: 'reissue' },
    keeper: { file: '/main.json', name: 'disk', add: ['file', '/x', '-s', size] },
  },
  restart: DEFAULT_RESTART,
})

interface Kept {
  device: InstanceType<typeof KeptDevice>
  events: ServeEvent[]
  /** The questions that its server was asked to resize it. */
  asked: URLSearchParams[]
}

/** Keeps device 0, which was made with 10G, as `entry` says; its server answers a resize with `refusal`, or does nothing but say yes. */
async function keep(t: ExecutionContext, entry: Entry, refusal: object | null): Promise<Kept> {
  const { path, remove } = temporaryDirectory()
  t.teardown(remove)
  const directory = new StateDirectory(path)
  StateDirectory.forUser = () => directory
  directory.write({ version: '0', id: 0, ...ownIdentity(), startedAt: '', spec: entryOf('10G').spec })
  const asked: URLSearchParams[] = []
  const answer = (response: ServerResponse, value: object, status = 200): void =>
    void response.writeHead(status, { connection: 'close' }).end(JSON.stringify(value))
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? '', 'http://server')
    if (pathname !== '/resize') return answer(response, {})
    asked.push(searchParams)
    if (refusal === null) answer(response, {})
    else answer(response, { error: refusal }, 500)
  })
  await new Promise<void>((resolve) => server.listen(directory.socketPath(0), resolve))
  t.teardown(() => server.close())
  const events: ServeEvent[] = []
  const device = new KeptDevice(entry, { spare: new Spare(), tell: (event) => events.push(event), onChange: () => undefined })
  t.teardown(() => device.stop())
  return { device, events, asked }
}

async function until(isSo: () => boolean): Promise<void> {
  const limit = performance.now() + 10_000
  while (!isSo() && performance.now() < limit) await delay(10)
}

const refusalOf = (code: string, message: string): object => ({ code, message, hint: null, exitCode: 1 })

/** Regression: the server kept the words from before, and undid `ublk resize` by them. */
test.serial('a larger size goes to the server with the words that ask for it', async (t) => {
  const entry = entryOf('20G')
  const { events, asked } = await keep(t, entry, null)
  await until(() => events.some(({ event }) => event === 'resized'))
  t.is(asked[0]?.get('size'), String(20 * 2 ** 30))
  t.deepEqual(asked[0]?.getAll('add'), entry.spec.keeper.add)
})

/** Regression: it was tried, and told, every 5 s for ever. */
test.serial('a size that a target cannot grow to is told once for the words, and replaces the device when it is let go', async (t) => {
  const { device, events, asked } = await keep(t, entryOf('20G'), refusalOf('ERR_UBLK_INVALID_OPTION', 'it does not grow'))
  await until(() => events.length > 1)
  await delay(2 * NEXT_LOOK_MS)
  t.deepEqual(
    events.map(({ event }) => event),
    ['adopted', 'failed', 'in-use'],
  )
  t.like(events[2], { wish: 'replace' })
  t.is(asked.length, 1)
  device.update(entryOf('30G'))
  await until(() => events.length > 3)
  t.like(events[3], { event: 'failed', error: { message: 'it does not grow' } })
  t.is(asked.length, 2)
})

test.serial('a size that the file is too short for is told once, tried again, and costs no device', async (t) => {
  const { events, asked } = await keep(t, entryOf('20G'), refusalOf('ERR_UBLK_FILE', '/x is too short'))
  await until(() => events.length > 1)
  await delay(NEXT_LOOK_MS)
  t.deepEqual(
    events.map(({ event }) => event),
    ['adopted', 'failed'],
  )
  t.is(asked.length, 2)
})
