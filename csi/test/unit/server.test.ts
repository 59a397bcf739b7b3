import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { connect as connectHttp2 } from 'node:http2'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { status } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { pino } from 'pino'
import type { CreateVolumeResponse } from '../../src/generated/csi.ts'
import { Metrics } from '../../src/metrics.ts'
import { servePlugin } from '../../src/server.ts'
import { CsiClient, mountAccess } from '../support/client.ts'
import { MemoryProvider } from '../support/memory-provider.ts'

const CREATE = { name: 'a', volumeCapabilities: [mountAccess()], capacityRange: { requiredBytes: 1n << 30n } }

async function start(t: ExecutionContext, before: (socket: string) => void = () => {}) {
  const directory = mkdtempSync(join(tmpdir(), 'ublk-csi-'))
  const socket = join(directory, 'csi.sock')
  before(socket)
  const provider = new MemoryProvider()
  const log: Record<string, unknown>[] = []
  const logger = pino({ level: 'trace' }, { write: (line: string) => void log.push(JSON.parse(line)) })
  const metrics = new Metrics()
  const topology = { key: 'k', value: 'node-1' }
  const expandsInUse = async (): Promise<boolean> => true
  const plugin = {
    provider: 'ublk' as const,
    topology,
    expandsInUse,
    controller: { provider, maxVolumes: 0, onlyNode: 'node-1', topology },
    node: null,
  }
  const server = await servePlugin(plugin, socket, metrics, logger)
  const client = new CsiClient(socket)
  t.teardown(async () => {
    client.close()
    await server.close()
    rmSync(directory, { recursive: true })
  })
  return { socket, provider, log, metrics, server, client }
}

const failsWith = async (t: ExecutionContext, call: Promise<unknown>, code: status, message: RegExp): Promise<void> => {
  const error = await t.throwsAsync<Error & { code: number; details: string }>(call)
  t.is(error.code, code, error.message)
  t.regex(error.details, message)
}

test('a call that is repeated finds what the first one made', async (t) => {
  const { client, provider } = await start(t)
  const first = await client.call('controller', 'createVolume', CREATE)
  t.deepEqual(await client.call('controller', 'createVolume', CREATE), first)
  t.is(provider.made, 1)
  await failsWith(
    t,
    client.call('controller', 'createVolume', { ...CREATE, capacityRange: { requiredBytes: 1n << 31n } }),
    status.ALREADY_EXISTS,
    /exists with 1073741824 bytes/,
  )
})

test('only a volume that was made from nothing is told to be blank', async (t) => {
  const { client } = await start(t)
  const { volume: empty } = await client.call<CreateVolumeResponse>('controller', 'createVolume', CREATE)
  t.is(empty?.volumeContext.blank, 'true')
  const volumeContentSource = { type: { $case: 'volume', value: { volumeId: empty!.volumeId } } }
  const { volume: copy } = await client.call<CreateVolumeResponse>('controller', 'createVolume', {
    ...CREATE,
    name: 'copy',
    volumeContentSource,
  })
  t.is(copy?.volumeContext.blank, 'false')
})

test('a second call on a volume meanwhile gets ABORTED, one on another volume is answered', async (t) => {
  const { client, provider } = await start(t)
  let go: (() => void) | undefined
  provider.pause = () =>
    new Promise<void>((resolve) => {
      go = resolve
    })
  const first = client.call('controller', 'createVolume', CREATE)
  while (go === undefined) await delay(5)
  await failsWith(t, client.call('controller', 'createVolume', CREATE), status.ABORTED, /CreateVolume is still at work on pvc-/)
  provider.pause = async () => {}
  await client.call('controller', 'createVolume', { ...CREATE, name: 'b' })
  go()
  await first
  await client.call('controller', 'createVolume', CREATE)
  t.is(provider.made, 2)
})

test('the deadline of a call aborts its work, and the volume is free again', async (t) => {
  const { client, provider } = await start(t)
  let reason: unknown
  provider.pause = (signal) =>
    new Promise((_, reject) => {
      signal.addEventListener('abort', () => {
        reason = signal.reason
        reject(new Error('interrupted'))
      })
    })
  await failsWith(t, client.call('controller', 'createVolume', CREATE, 2_000), status.DEADLINE_EXCEEDED, /./)
  for (let waited = 0; reason === undefined && waited < 10_000; waited += 10) await delay(10)
  t.regex(String(reason), /deadline|caller has gone/)
  provider.pause = async () => {}
  await client.call('controller', 'createVolume', CREATE)
})

test('a close lets a call in flight end and takes no new ones', async (t) => {
  const { client, provider, server } = await start(t)
  let begun = false
  provider.pause = async () => {
    begun = true
    await delay(300)
  }
  const call = client.call('controller', 'createVolume', CREATE)
  while (!begun) await delay(5)
  const closing = server.close()
  t.truthy(await call)
  await closing
  await t.throwsAsync(client.call('controller', 'listVolumes', {}, 500))
})

test('an authority of any text is served', async (t) => {
  const { socket, client } = await start(t)
  for (const authority of ['localhost', '/csi/csi.sock', '', '@', 'a b', '%2Fcsi%2Fcsi.sock', 'unix:///csi/csi.sock', 'x'.repeat(300)]) {
    t.is(await probeWith(socket, authority), '0', authority)
  }
  t.truthy(await client.call('identity', 'getPluginInfo', {}))
})

/** grpc-status of a GetPluginInfo with this authority; three calls on one connection, so that the compression's table is used. */
async function probeWith(socket: string, authority: string): Promise<unknown> {
  const session = connectHttp2('http://localhost', { createConnection: () => connect(socket) })
  session.on('error', () => {})
  const results: unknown[] = []
  for (let call = 0; call < 3; call += 1) {
    results.push(
      await new Promise((resolve) => {
        const headers = { ':method': 'POST', ':path': '/csi.v1.Identity/GetPluginInfo', ':authority': authority }
        const stream = session.request({ ...headers, 'content-type': 'application/grpc', te: 'trailers', 'x-long': 'v'.repeat(200 * call) })
        stream.on('trailers', (trailers) => resolve(trailers['grpc-status']))
        stream.on('error', (error) => resolve(error.message))
        stream.resume()
        stream.end(Buffer.alloc(5))
      }),
    )
  }
  session.destroy()
  return new Set(results).size === 1 ? results[0] : results
}

test('rubbish on the socket ends its connection and nothing else', async (t) => {
  const { socket, client } = await start(t)
  for (const rubbish of ['GET / HTTP/1.1\r\n\r\n', 'x'.repeat(100_000), `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${'\xff'.repeat(64)}`]) {
    await new Promise<void>((resolve) => {
      const connection = connect(socket)
      connection.on('error', () => {})
      connection.on('close', () => resolve())
      connection.resume()
      connection.end(Buffer.from(rubbish, 'latin1'))
    })
  }
  t.truthy(await client.call('identity', 'getPluginInfo', {}))
})

test('a socket that a dead process left is no obstacle; the new one is private', async (t) => {
  const { socket, client } = await start(t, (path) => {
    // Killed while it listens: the file stays.
    spawnSync(process.execPath, [
      '-e',
      `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`,
    ])
    t.true(statSync(path).isSocket())
  })
  t.is(statSync(socket).mode & 0o777, 0o600)
  t.truthy(await client.call('identity', 'getPluginInfo', {}))
})

test('a socket that is served is not taken away, and a file that is no socket is not removed', async (t) => {
  const { socket, client } = await start(t)
  const other = { provider: 'ublk' as const, topology: null, expandsInUse: async () => true, controller: null, node: null }
  const log = pino({ level: 'silent' })
  await t.throwsAsync(servePlugin(other, socket, new Metrics(), log), { message: /another ublk-csi serves/ })
  const file = `${socket}.file`
  writeFileSync(file, 'precious')
  await t.throwsAsync(servePlugin(other, file, new Metrics(), log), { message: /no socket/ })
  t.is(statSync(file).size, 8)
  t.truthy(await client.call('identity', 'getPluginInfo', {}))
})

test('secrets are in no line of the log', async (t) => {
  const { client, log } = await start(t)
  await client.call('controller', 'createVolume', { ...CREATE, secrets: { password: 'hunter2' } })
  const text = JSON.stringify(log)
  t.false(text.includes('hunter2'))
  t.true(text.includes('"password":"***"'))
  t.true(log.some((line) => line.operation === 'CreateVolume' && line.name === 'a' && typeof line.durationMs === 'number'))
})

test('calls are counted by their codes', async (t) => {
  const { client, metrics } = await start(t)
  await client.call('controller', 'createVolume', CREATE)
  await t.throwsAsync(client.call('controller', 'createVolume', { ...CREATE, name: '' }))
  const text = await metrics.registry.metrics()
  t.regex(text, /ublk_csi_calls_total\{method="CreateVolume",code="OK"\} 1/)
  t.regex(text, /ublk_csi_calls_total\{method="CreateVolume",code="INVALID_ARGUMENT"\} 1/)
  t.regex(text, /ublk_csi_calls_running\{method="CreateVolume"\} 0/)
})

test('twenty creations at once leave twenty volumes', async (t) => {
  const { client, provider } = await start(t)
  await Promise.all(Array.from({ length: 20 }, (_, n) => client.call('controller', 'createVolume', { ...CREATE, name: `v${n}` })))
  t.is(provider.kept.size, 20)
  const seen: string[] = []
  let startingToken = ''
  do {
    const page = await client.call<{ entries: Array<{ volume: { volumeId: string } }>; nextToken: string }>('controller', 'listVolumes', {
      maxEntries: 7,
      startingToken,
    })
    seen.push(...page.entries.map(({ volume }) => volume.volumeId))
    startingToken = page.nextToken
  } while (startingToken !== '')
  t.is(new Set(seen).size, 20)
  t.is(seen.length, 20)
  await failsWith(t, client.call('controller', 'listVolumes', { startingToken: 'x' }), status.ABORTED, /begin the list again/)
})

test('an access that several nodes share is refused', async (t) => {
  const { client } = await start(t)
  await failsWith(
    t,
    client.call('controller', 'createVolume', { ...CREATE, volumeCapabilities: [mountAccess('ext4', 5)] }),
    status.INVALID_ARGUMENT,
    /one node at a time/,
  )
})

test('a node that is not there gets no volume', async (t) => {
  const { client } = await start(t)
  const { volume } = await client.call<{ volume: { volumeId: string } }>('controller', 'createVolume', CREATE)
  const publish = { volumeId: volume.volumeId, nodeId: 'node-2', volumeCapability: mountAccess() }
  await failsWith(t, client.call('controller', 'controllerPublishVolume', publish), status.NOT_FOUND, /no node node-2/)
  await client.call('controller', 'controllerPublishVolume', { ...publish, nodeId: 'node-1' })
})
