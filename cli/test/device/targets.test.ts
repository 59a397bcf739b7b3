import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { temporaryDirectory, ublk } from '../program.ts'
import { add, assertNothingLeft, del, isAlive, leftovers, readText, serverPids, waitUntil } from './device.ts'

const MIB = 1024 * 1024
/** A program that begins takes seconds on an emulated machine, and each test begins a dozen. */
const TIMEOUT_MS = 300_000

test.afterEach.always(async (t) => {
  if (leftovers().length > 0) await ublk(['del', '--all'])
  await assertNothingLeft(t)
})

function folder(t: ExecutionContext): string {
  const directory = temporaryDirectory({})
  t.teardown(directory.remove)
  return directory.path
}

function write(path: string, offset: number, fill: number, length = 4096): boolean {
  try {
    const args = [`of=${path}`, 'bs=4096', `seek=${offset / 4096}`, 'oflag=direct', 'conv=notrunc', 'status=none']
    execFileSync('dd', args, { input: Buffer.alloc(length, fill), stdio: ['pipe', 'ignore', 'ignore'] })
    return true
  } catch {
    return false
  }
}

function read(path: string, offset: number, length = 4096): Buffer {
  const args = [`if=${path}`, 'bs=4096', `skip=${offset / 4096}`, `count=${length / 4096}`, 'status=none']
  return execFileSync('dd', args, { maxBuffer: 64 * MIB })
}

async function stats(t: ExecutionContext, id: number): Promise<{ legs: { path: string; state: string; error: string | null }[] }> {
  const { status, stdout, stderr } = await ublk(['stats', String(id), '--json'])
  t.is(status, 0, stderr)
  return JSON.parse(stdout)
}

test.serial('stripe lays chunks on its files in turn', async (t) => {
  t.timeout(TIMEOUT_MS)
  const files = ['a', 'b', 'c'].map((name) => join(folder(t), name))
  const device = await add(t, 'stripe', ...files, '--create', '--size', '3M', '--chunk', '8K', '--direct')
  t.is(device.size, 3 * MIB)
  t.deepEqual(device.target, { type: 'stripe', paths: files, chunk: '8K', direct: true, create: true })
  for (let chunk = 0; chunk < 9; chunk++) t.true(write(device.path, chunk * 8192, chunk + 1, 8192))
  await del(t, String(device.id))
  for (const [leg, file] of files.entries()) {
    for (let row = 0; row < 3; row++) {
      t.deepEqual(read(file, row * 8192, 8192), Buffer.alloc(8192, row * 3 + leg + 1), `row ${row} of leg ${leg}`)
    }
  }
})

test.serial('a mirror tells which leg has failed, goes on, and brings it up to date when it is opened again', async (t) => {
  t.timeout(TIMEOUT_MS)
  const good = join(folder(t), 'good.img')
  writeFileSync(good, Buffer.alloc(4 * MIB, 7))
  const bad = await add(t, 'fault', '--over', 'mem', '-s', '8M', '--error-ops', 'write', '--error-range', '1M-2M')
  const device = await add(t, 'mirror', good, bad.path, '--create', '--direct')
  t.is(device.size, 4 * MIB)
  // The resync itself meets the fault: the range holds sevens, and the leg zeroes.
  await waitUntil('the bad leg has failed', async () => (await stats(t, device.id)).legs[1]?.state === 'failed')
  t.deepEqual((await stats(t, device.id)).legs, [
    { path: good, state: 'in-sync', error: null, resyncedBytes: null },
    { path: bad.path, state: 'failed', error: 'Input/output error', resyncedBytes: null },
  ] as never)
  // Nobody listens to a server in the background: what it warned of is kept for whoever asks.
  const told = (await ublk(['stats', String(device.id)])).stdout
  t.regex(told, /ublkb\d+: failed \(Input\/output error\)$/m)
  t.regex(told, new RegExp(`^warning, \\d{4}-\\S+Z: .*${bad.path}`, 'm'))
  t.true(write(device.path, MIB, 9))
  t.deepEqual(read(device.path, MIB), Buffer.alloc(4096, 9))
  await del(t, String(device.id), String(bad.id))

  const spare = join(folder(t), 'spare.img')
  const again = await add(t, 'mirror', good, spare, '--create')
  await waitUntil('the spare is in sync', async () => (await stats(t, again.id)).legs.every(({ state }) => state === 'in-sync'))
  await del(t, String(again.id))
  t.deepEqual(read(spare, MIB), Buffer.alloc(4096, 9))
  t.deepEqual(read(spare, 0, 4 * MIB), read(good, 0, 4 * MIB))
})

test.serial('a mirror is refused while a leg that may be newer is missing, and files that are no legs without --create', async (t) => {
  t.timeout(TIMEOUT_MS)
  const files = ['a', 'b'].map((name) => join(folder(t), name))
  const plain = files.map((file) => `${file}.raw`)
  for (const file of plain) {
    writeFileSync(file, '')
    truncateSync(file, MIB)
  }
  const unmade = await ublk(['add', 'mirror', ...plain])
  t.is(unmade.status, 1)
  t.regex(unmade.stderr, /^ublk: \S+a\.raw: is no leg of a mirror yet/)
  const { id } = await add(t, 'mirror', ...files, '--create', '-s', '1M')
  await del(t, String(id))
  const partial = await ublk(['add', 'mirror', files[0] as string, `${files[1]}.gone`])
  t.is(partial.status, 1)
  t.regex(partial.stderr, /b\.gone: .*may hold newer data/)
})

test.serial('fault over a file: delay, errors by range and operation, and torn writes', async (t) => {
  t.timeout(TIMEOUT_MS)
  const file = join(folder(t), 'disk.img')
  const over = ['fault', '--over', 'file', file, '--create', '-s', '4M']
  const failing = await add(t, ...over, '--delay', '50ms', '--error-ops', 'write,discard', '--error-range', '1M-2M')
  t.deepEqual(failing.target, {
    type: 'fault',
    over: { type: 'file', path: file, direct: false, create: true },
    faults: { delayMs: 50, errorOps: ['write', 'discard'], errorRange: { begin: '1M', end: '2M' } },
  })
  const begin = performance.now()
  t.true(write(failing.path, 0, 1))
  t.true(performance.now() - begin >= 50)
  t.false(write(failing.path, MIB, 1))
  t.true(write(failing.path, 2 * MIB, 1))
  read(failing.path, MIB)
  await del(t, String(failing.id))

  const torn = await add(t, ...over, '--torn-write-rate', '1', '--seed', '5')
  t.false(write(torn.path, 3 * MIB, 0xee, 65_536))
  await del(t, String(torn.id))
  const written = read(file, 3 * MIB, 65_536).lastIndexOf(0xee) + 1
  t.true(written < 65_536 && written % 512 === 0, `${written} bytes`)
})

test.serial('a server that is told to die does, at the request that was named', async (t) => {
  t.timeout(TIMEOUT_MS)
  const file = join(folder(t), 'disk.img')
  for (const [dieAt, third] of [
    ['fetch', 0],
    ['commit', 3],
  ] as const) {
    writeFileSync(file, Buffer.alloc(MIB))
    const device = await add(t, 'fault', '--over', 'file', file, '--die-at', dieAt, '--die-after', '3')
    t.deepEqual(
      [1, 2, 3].map((fill) => write(device.path, fill * 4096, fill)),
      [true, true, false],
      dieAt,
    )
    await waitUntil('the server is gone', () => !isAlive(device.server.pid))
    t.false(serverPids().includes(device.server.pid), readText(`/proc/${device.server.pid}/status`))
    await del(t, String(device.id))
    t.deepEqual(
      [1, 2, 3].map((fill) => read(file, fill * 4096)[0]),
      [1, 2, third],
      dieAt,
    )
  }
})

test.serial('nbd serves an export, tells of a server that is gone, and goes on when it is back', async (t) => {
  t.timeout(TIMEOUT_MS)
  const directory = folder(t)
  const [image, socket] = [join(directory, 'disk.img'), join(directory, 'nbd.sock')]
  writeFileSync(image, Buffer.alloc(4 * MIB))
  const serve = (): ChildProcess => spawn('nbdkit', ['--foreground', '-U', socket, 'file', image], { stdio: 'ignore' })
  let server = serve()
  t.teardown(() => server.kill('SIGKILL'))
  await waitUntil('nbdkit listens', () => existsSync(socket))
  const uri = `nbd+unix:///?socket=${socket}`
  const device = await add(t, 'nbd', uri, '--timeout', '1m', '--patience', '90s')
  t.deepEqual(device.target, { type: 'nbd', uri, requestTimeoutMs: 60_000, patienceMs: 90_000 })
  t.is(device.size, 4 * MIB)
  t.true(write(device.path, MIB, 5))
  server.kill('SIGKILL')
  await once(server, 'exit')
  rmSync(socket)
  server = serve()
  t.true(write(device.path, 2 * MIB, 6))
  t.deepEqual(read(device.path, MIB), Buffer.alloc(4096, 5))
  await del(t, String(device.id))
  t.is(read(image, 2 * MIB)[0], 6)
  const nowhere = await ublk(['add', 'nbd', 'nbd://127.0.0.1:1/x'])
  t.is(nowhere.status, 1)
  t.regex(nowhere.stderr, /^ublk: NBD server 127\.0\.0\.1:1: Connection refused/)
})

test.serial('nbds serves what comes from the right server, and tells what is wrong with the others', async (t) => {
  t.timeout(TIMEOUT_MS)
  const directory = folder(t)
  const pki = join(directory, 'pki')
  execFileSync(resolve(import.meta.dirname, '../../../test/certificates'), [pki])
  const [image, socket] = [join(directory, 'disk.img'), join(directory, 'nbd.sock')]
  writeFileSync(image, Buffer.alloc(4 * MIB))
  const tls = ['--tls=require', `--tls-certificates=${pki}/server`, '--tls-verify-peer']
  const server = spawn('nbdkit', ['--foreground', '-U', socket, ...tls, 'file', image], { stdio: 'ignore' })
  t.teardown(() => server.kill('SIGKILL'))
  await waitUntil('nbdkit listens', () => existsSync(socket))
  const uri = (scheme: string, more = '') => `${scheme}:///?socket=${socket}${more}`
  const device = await add(t, 'nbd', uri('nbds+unix', `&tls-certificates=${pki}/client`))
  t.true(write(device.path, MIB, 5))
  await del(t, String(device.id))
  t.is(read(image, MIB)[0], 5)
  const refused = async (target: string, problem: RegExp): Promise<void> => {
    const { status, stderr } = await ublk(['add', 'nbd', target])
    t.is(status, 1, target)
    t.regex(stderr, problem)
  }
  await refused(uri('nbd+unix'), /it wants TLS(?:.|\n)*nbds:/)
  await refused(uri('nbds+unix', `&tls-certificates=${pki}/stranger`), /its certificate is from no authority that is trusted/)
  await refused(uri('nbds+unix', `&tls-certificates=${pki}/client&tls-hostname=elsewhere`), /its certificate is for another name/)
  const careless = await ublk([
    'add',
    'nbd',
    uri('nbds+unix', `&tls-certificates=${pki}/client&tls-hostname=elsewhere&tls-verify-peer=false`),
  ])
  t.is(careless.status, 0, careless.stderr)
  t.regex(careless.stderr, /anybody can be that server/)
  await del(t, careless.stdout.match(/\d+/)?.[0] as string)
})
