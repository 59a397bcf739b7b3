import { once } from 'node:events'
import { statSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import test from 'ava'
import { askServer, tellServer } from '../src/lib/server-client.ts'
import { listen, type StatusServer, type StatusSource } from '../src/lib/status-server.ts'
import { temporaryDirectory } from './program.ts'

const SOURCE: StatusSource = {
  info: async () => ({ id: 7 }),
  stats: async () => ({ inFlight: 1 }),
  metrics: async () => '# HELP x y\n',
  stop: async () => undefined,
  quiesce: async () => undefined,
  resize: async () => undefined,
  sharedMemory: async () => ({}),
  share: async () => undefined,
  unshare: async () => undefined,
}

type Teardown = { teardown(run: () => void): void }

async function serverFor(t: Teardown, source: Partial<StatusSource> = {}): Promise<string> {
  return (await closableServer(t, source)).socket
}

async function closableServer(
  t: Teardown,
  source: Partial<StatusSource> = {},
  options: { silenceLimitMs?: number } = {},
): Promise<{ socket: string; server: StatusServer }> {
  const { path, remove } = temporaryDirectory()
  const socket = join(path, '0.sock')
  const server = await listen(socket, { ...SOURCE, ...source }, options)
  t.teardown(() => server.close())
  t.teardown(remove)
  return { socket, server }
}

/** A caller who is connected, and says `said`. */
async function caller(socket: string, said = ''): Promise<Socket> {
  const client = connect(socket).resume()
  await once(client, 'connect')
  client.on('error', () => undefined).write(said)
  return client
}

/** Resolves when the other side has hung up, with a reset or without. */
async function hungUp(client: Socket): Promise<void> {
  while (!client.closed) await setTimeout(5)
}

/** Something that happens later: `promise` resolves with `resolve()`. */
function turn(): { promise: Promise<void>; resolve: () => void } {
  let resolve: () => void = () => undefined
  const promise = new Promise<void>((done) => {
    resolve = done
  })
  return { promise, resolve }
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

test('quiesce has the time that its caller gives it; what is no time is refused with 400', async (t) => {
  const given: (number | undefined)[] = []
  const socket = await serverFor(t, {
    quiesce: async (timeoutMs) => {
      given.push(timeoutMs)
    },
  })
  t.deepEqual(await askServer(socket, 'POST', '/quiesce?timeoutMs=120000'), { quiesced: true })
  t.deepEqual(await askServer(socket, 'POST', '/quiesce'), { quiesced: true })
  for (const bad of ['', '0', '-1', '1.5', '1e3', 'soon', '86400001'])
    await t.throwsAsync(askServer(socket, 'POST', `/quiesce?timeoutMs=${bad}`), {
      message: /^timeoutMs must be a whole number from 1 to 86400000, got /,
    })
  const call = request({ socketPath: socket, method: 'POST', path: '/quiesce?timeoutMs=soon' }).end()
  const [response] = await once(call, 'response')
  t.is(response.resume().statusCode, 400)
  t.deepEqual(given, [120_000, undefined])
})

test('resize has the words of FILE with it, or none when it is asked for by hand', async (t) => {
  const given: [string, string[]][] = []
  const socket = await serverFor(t, {
    resize: async (size, add) => {
      given.push([size, add])
    },
  })
  await askServer(socket, 'POST', '/resize?size=1024&add=file&add=%2Fa+b&add=-s&add=1K')
  await askServer(socket, 'POST', '/resize?size=2048')
  t.deepEqual(given, [
    ['1024', ['file', '/a b', '-s', '1K']],
    ['2048', []],
  ])
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

test('close hangs up on who has not asked, before HTTP is loaded and after; the answer under way gets out', async (t) => {
  const stopping = turn()
  const begun = turn()
  const { socket, server } = await closableServer(t, {
    stop: () => {
      begun.resolve()
      return stopping.promise
    },
  })
  const early = await caller(socket)
  const answer = askServer(socket, 'POST', '/stop')
  await begun.promise
  const silent = await caller(socket)
  const halfway = await caller(socket, 'GET /info HTTP/1.1\r\n')
  server.close()
  await Promise.all([early, silent, halfway].map(hungUp))
  t.is(await askServer(socket, 'GET', '/info'), null)
  stopping.resolve()
  t.deepEqual(await answer, { stopped: true })
})

test('a server that closes before its first caller has HTTP hangs up', async (t) => {
  const { socket, server } = await closableServer(t)
  const client = await caller(socket)
  server.close()
  server.close()
  await hungUp(client)
  t.pass()
})

test('a silent caller is hung up on in time, and an answer may take longer', async (t) => {
  const { socket } = await closableServer(t, { stop: () => setTimeout(2000) }, { silenceLimitMs: 500 })
  const client = await caller(socket)
  t.deepEqual(await askServer(socket, 'POST', '/stop'), { stopped: true })
  await hungUp(client)
})

test('a caller that resets the connection does no harm', async (t) => {
  const socket = await serverFor(t)
  for (let times = 0; times < 10; times++) (await caller(socket, 'GET /info HTTP/1.1\r\n\r\n')).destroy()
  t.deepEqual(await askServer(socket, 'GET', '/info'), { id: 7 })
})

test('what is told is carried out without its teller, who does not wait', async (t) => {
  const begun = turn()
  const socket = await serverFor(t, {
    stop: () => {
      begun.resolve()
      return new Promise(() => undefined)
    },
  })
  t.true(await tellServer(socket, 'POST', '/stop'))
  await begun.promise
})

test('telling nobody is false', async (t) => {
  const { path, remove } = temporaryDirectory()
  t.teardown(remove)
  t.false(await tellServer(join(path, 'none.sock'), 'POST', '/stop'))
})

/** Regression: `socket hang up`, and no hint. */
for (const [what, said] of [
  ['nothing', ''],
  ['half an answer', 'HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{"stopped"'],
] as const) {
  test(`a server that hangs up after ${what} listens no more`, async (t) => {
    const { path, remove } = temporaryDirectory()
    t.teardown(remove)
    const socket = join(path, '0.sock')
    const server = createServer((client) => client.once('data', () => client.write(said, () => client.destroy())))
    t.teardown(() => server.close())
    await new Promise<void>((resolve) => server.listen(socket, resolve))
    t.is(await askServer(socket, 'POST', '/stop'), null)
  })
}
