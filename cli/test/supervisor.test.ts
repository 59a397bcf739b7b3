/** What the service manager hears of `ublk serve`: with records as those of servers, and neither servers nor a driver. */

import fs from 'node:fs'
import { registerHooks, syncBuiltinESMExports } from 'node:module'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { ownIdentity } from '../src/lib/process.ts'
import { type ServeEvent, sentenceOf } from '../src/lib/serve-events.ts'
import type { Entry } from '../src/lib/serve-file.ts'
import type { ServiceManager } from '../src/lib/service-manager.ts'
import { StateDirectory } from '../src/lib/state.ts'
import { temporaryDirectory } from './program.ts'

/** Every device that has a record is live, and is served by this process. */
const DRIVER = `
  export { parseSize } from '${new URL('../../src/size.ts', import.meta.url)}'
  export const deviceInfo = async (id) => ({ id, state: 'live', pid: ${process.pid} })
`
/** None comes up. */
const LAUNCH = `
  export const launch = async () => {
    throw new Error('its image is missing')
  }
  export const startServer = () => undefined
`
const asModule = (source: string) => ({ url: `data:text/javascript,${encodeURIComponent(source)}`, format: 'module', shortCircuit: true })
registerHooks({
  resolve: (specifier, context, next) => {
    if (specifier === 'ublk') return asModule(DRIVER)
    return specifier.endsWith('/launch.ts') ? asModule(LAUNCH) : next(specifier, context)
  },
})
const { existsSync } = fs
fs.existsSync = (path) => String(path).startsWith('/sys/block/ublkb') || existsSync(path)
syncBuiltinESMExports()
const { Supervisor } = await import('../src/lib/supervisor.ts')

const FILE = '/main.json'

const entryOf = (name: string, tries: number): Entry => ({
  name,
  spec: { target: { type: 'null' }, device: {}, keeper: { file: FILE, name, add: ['null'] } },
  restart: { delayMs: 10, longestMs: 10, tries, rarelyMs: 60_000 },
})

/** Keeps `entries`, of which those that are `up` live already. */
function supervise(t: ExecutionContext, entries: Entry[], up: Entry[]) {
  const { path, remove } = temporaryDirectory()
  t.teardown(remove)
  const directory = new StateDirectory(path)
  StateDirectory.forUser = () => directory
  for (const [id, { spec }] of up.entries()) directory.write({ version: '0', id, ...ownIdentity(), startedAt: '', spec })
  const heard: string[] = []
  const events: ServeEvent[] = []
  const manager = { tell: (state: string) => heard.push(state), reloading: () => heard.push('RELOADING=1') }
  const supervisor = new Supervisor(manager as unknown as ServiceManager, (event) => events.push(event))
  t.teardown(() => supervisor.stop({ leaves: true }))
  supervisor.start(FILE, entries)
  return { supervisor, heard, events }
}

async function until(isSo: () => boolean): Promise<void> {
  const limit = performance.now() + 10_000
  while (!isSo() && performance.now() < limit) await delay(10)
}

/** Regression: the start of the machine, and the mounts of the others, waited for it for ever. */
test.serial('a device that has used up its tries is waited for no more, and is named', async (t) => {
  const [good, broken] = [entryOf('good', 2), entryOf('broken', 2)]
  const { heard, events } = supervise(t, [good, broken], [good])
  await until(() => heard.includes('READY=1'))
  const failures = events.filter(({ event }) => event === 'failed')
  t.is(failures.length, 3)
  t.is(heard.at(-1), 'READY=1')
  t.is(heard.at(-2), 'STATUS=1 of 2 devices live; waiting for broken (its image is missing)')
  const ready = events.find(({ event }) => event === 'ready')
  t.deepEqual(ready, { event: 'ready', devices: 1, givenUp: ['broken'] })
  t.is(ready && sentenceOf(ready), 'ready: 1 live, given up: broken')
})

/** Regression: the READY=1 that ends a reload made the unit active. */
test.serial('a reload before the first readiness does not tell it', async (t) => {
  const broken = entryOf('broken', 1_000)
  const { supervisor, heard } = supervise(t, [broken], [])
  await until(() => heard.some((state) => state.includes('missing')))
  supervisor.reload([broken])
  t.false(heard.includes('RELOADING=1'))
  t.false(heard.includes('READY=1'))
})

test.serial('a reload after it is told, from its begin to its end', async (t) => {
  const good = entryOf('good', 2)
  const { supervisor, heard } = supervise(t, [good], [good])
  await until(() => heard.includes('READY=1'))
  heard.length = 0
  supervisor.reload([good])
  t.deepEqual(heard, ['RELOADING=1', 'READY=1'])
})
