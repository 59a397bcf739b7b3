import { statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import test from 'ava'
import { askServer } from '../src/lib/server-client.ts'
import { listen, type StatusSource } from '../src/lib/status-server.ts'
import { temporaryDirectory } from './program.ts'

const SOURCE: StatusSource = {
  info: async () => ({ id: 7 }),
  stats: async () => ({ inFlight: 1 }),
  metrics: async () => '# HELP x y\n',
  stop: async () => undefined,
}

async function serverFor(t: { teardown(run: () => void): void }, source: Partial<StatusSource> = {}): Promise<string> {
  const { path, remove } = temporaryDirectory()
  const socket = join(path, '0.sock')
  const server = await listen(socket, { ...SOURCE, ...source })
  t.teardown(() => server.close())
  t.teardown(remove)
  return socket
}

test('the socket is 0600, and the mask of the process is as before', async (t) => {
  const mask = process.umask()
  t.is(statSync(await serverFor(t)).mode & 0o777, 0o600)
  t.is(process.umask(), mask)
})

test('info, stats and stop answer JSON', async (t) => {
  let stops = 0
  const socket = await serverFor(t, {
    stop: async () => {
      stops++
    },
  })
  t.deepEqual(await askServer(socket, 'GET', '/info'), { id: 7 })
  t.deepEqual(await askServer(socket, 'GET', '/stats'), { inFlight: 1 })
  t.is(stops, 0)
  t.deepEqual(await askServer(socket, 'POST', '/stop'), { stopped: true })
  t.is(stops, 1)
})

test('an error of the server reaches the caller with its code and hint', async (t) => {
  const socket = await serverFor(t, {
    stop: async () => {
      throw Object.assign(new Error('still open'), { code: 'ERR_UBLK_BUSY', hint: 'Unmount it.' })
    },
  })
  const error = await t.throwsAsync(askServer(socket, 'POST', '/stop'), { message: 'still open' })
  t.like((error as unknown as { report: object }).report, { code: 'ERR_UBLK_BUSY', hint: 'Unmount it.', exitCode: 6 })
})

test('what is not served is an error; GET /stop stops nothing', async (t) => {
  const socket = await serverFor(t, { stop: async () => t.fail() })
  await t.throwsAsync(askServer(socket, 'GET', '/stop'), { message: /GET \/stop/ })
})

test('nobody there is null: no file, and the file of a server that was killed', async (t) => {
  const { path, remove } = temporaryDirectory()
  t.teardown(remove)
  t.is(await askServer(join(path, 'none.sock'), 'GET', '/info'), null)
  writeFileSync(join(path, 'stale.sock'), '')
  t.is(await askServer(join(path, 'stale.sock'), 'GET', '/info'), null)
})

test('a server that does not answer is a time-out, exit status 7', async (t) => {
  const { path, remove } = temporaryDirectory()
  const silent = createServer(() => undefined)
  const socket = join(path, 's.sock')
  await new Promise<void>((resolve) => silent.listen(socket, resolve))
  t.teardown(() => silent.close())
  t.teardown(remove)
  const error = await t.throwsAsync(askServer(socket, 'GET', '/info', 100))
  t.like((error as unknown as { report: object }).report, { code: 'ERR_UBLK_TIMEOUT', exitCode: 7 })
})
