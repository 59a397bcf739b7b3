/** Verbs for devices that outlive their servers: recover, quiesce, resize, cleanup; and affinity. */

import { execFile, execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import { Device, nullTarget } from '../../../src/index.ts'
import { kernelFlags } from '../../../test/device/support.ts'
import { findOrphans, removeOrphan } from '../../src/lib/cleanup.ts'
import { askServer } from '../../src/lib/server-client.ts'
import { errorOf, type Outcome, temporaryDirectory, ublk } from '../program.ts'
import { add, assertNothingLeft, assertReport, del, isAlive, leftovers, list, MODULES, STATE, waitUntil } from './device.ts'

const MIB = 1024 * 1024
/** Each verb is a start of Node or two, in an emulated machine. */
const LIMIT_MS = 600_000

test.beforeEach((t) => t.timeout(LIMIT_MS))

test.afterEach.always(async (t) => {
  if (leftovers().length > 0) await ublk(['del', '--all'])
  await ublk(['cleanup', '--all'])
  await assertNothingLeft(t)
})

async function json(t: ExecutionContext, ...args: string[]) {
  const { status, stdout, stderr } = await ublk([...args, '--json'])
  t.is(status, 0, stdout + stderr)
  return JSON.parse(stdout)
}

async function killServer(t: ExecutionContext, { id, server }: { id: number; server: { pid: number } }, state: string): Promise<void> {
  process.kill(server.pid, 'SIGKILL')
  await waitUntil(`device ${id} is ${state}`, async () => (await list(t)).find((device) => device.id === id)?.state === state)
}

function write(path: string, data: Buffer): void {
  execFileSync('dd', [`of=${path}`, 'bs=64k', 'oflag=direct', 'iflag=fullblock', 'status=none'], { input: data })
}

function read(path: string): Buffer {
  return execFileSync('dd', [`if=${path}`, 'bs=64k', 'count=4', 'iflag=direct', 'status=none'])
}

test.serial('recover: of two at once one has the device, and the other says that it is served', async (t) => {
  const directory = temporaryDirectory()
  t.teardown(directory.remove)
  const image = join(directory.path, 'disk.img')
  const first = await add(t, 'file', image, '--create', '-s', '16M', '--recovery', 'reissue')
  const data = randomBytes(256 * 1024)
  write(first.path, data)
  await killServer(t, first, 'quiesced')
  const both = await Promise.all([1, 2].map(() => ublk(['recover', String(first.id), '--json'])))
  const [taken, refused] = both.toSorted((one, other) => (one.status ?? 0) - (other.status ?? 0)) as [Outcome, Outcome]
  t.is(taken.status, 0, taken.stdout + taken.stderr)
  t.is(refused.status, 1, refused.stdout + refused.stderr)
  const server = JSON.parse(taken.stdout).server.pid
  t.regex(errorOf(refused).message, new RegExp(`is live: process ${server} serves it`))
  const now = await json(t, 'info', String(first.id))
  t.is(now.state, 'live')
  t.is(now.server.pid, server, 'the record is that of the one that serves it')
  t.deepEqual(read(first.path), data)
  await del(t, String(first.id))
})

test.serial('recover: integrity data goes on beside the data, and is not made anew', async (t) => {
  if (!(await kernelFlags()).has('INTEGRITY')) {
    t.pass('this kernel has no integrity data')
    return
  }
  const directory = temporaryDirectory()
  t.teardown(directory.remove)
  const image = join(directory.path, 'disk.img')
  const first = await add(t, 'file', image, '--create', '-s', '16M', '--integrity', 'csum=t10dif,reftag', '--recovery', 'reissue')
  const integrity = { size: 8, csum: 't10dif', piOffset: 0, tagSize: 0, reftag: true, capable: false } as const
  t.deepEqual(first.integrity, integrity)
  t.regex((await ublk(['info', String(first.id)])).stdout, /^integrity +size=8,csum=t10dif,reftag$/m)
  const data = randomBytes(256 * 1024)
  write(first.path, data)
  await killServer(t, first, 'quiesced')

  renameSync(`${image}.integrity`, `${image}.away`)
  t.like(errorOf(await ublk(['recover', String(first.id), '--json'])), { code: 'ERR_UBLK_FILE' })
  renameSync(`${image}.away`, `${image}.integrity`)
  await json(t, 'recover', String(first.id))
  t.true(read(first.path).equals(data))
  await del(t, String(first.id))
})

test.serial('recover: memory that users share is known to the next server, and of what is another file by now it tells', async (t) => {
  if (!(await kernelFlags()).has('SHMEM_ZC')) {
    t.pass('this kernel has no shared memory')
    return
  }
  const directory = temporaryDirectory()
  t.teardown(directory.remove)
  const [image, kept, lost] = ['disk.img', 'kept', 'lost'].map((name) => join(directory.path, name)) as [string, string, string]
  for (const file of [kept, lost]) writeFileSync(file, Buffer.alloc(MIB))
  const device = await add(t, 'file', image, '--create', '-s', '16M', '--shmem', lost, '--recovery', 'reissue')
  const id = String(device.id)
  const { sharedMemory: both } = await json(t, 'shmem', id, '--add', kept)
  const data = randomBytes(256 * 1024)
  write(device.path, data)
  await killServer(t, device, 'quiesced')
  renameSync(lost, `${lost}.away`)
  writeFileSync(lost, Buffer.alloc(MIB))

  await json(t, 'recover', id)
  t.true(read(device.path).equals(data))
  t.deepEqual((await json(t, 'shmem', id)).sharedMemory, [both[1]])
  const { warnings } = await json(t, 'stats', id)
  t.is(warnings.length, 1)
  t.regex(warnings[0].message, new RegExp(`^${lost} is not the file any more that the users of device ${id} shared`))
  // Its number is free again: the driver has forgotten the pages of the file that is away.
  const { sharedMemory: now } = await json(t, 'shmem', id, '--add', lost)
  t.like(now[0], { path: lost, number: 0 })
  t.not(now[0].fileId, both[0].fileId)
  await del(t, id)
})

/** Scheduling policies of the threads that serve a device. */
function policies({ id, server }: { id: number; server: { pid: number } }): string[] {
  const POLICY = 41 - 3 // field 41 in proc_pid_stat(5), counted from the state behind the name
  const stats = readdirSync(`/proc/${server.pid}/task`).map((task) => readFileSync(`/proc/${server.pid}/task/${task}/stat`, 'utf8'))
  return stats.filter((stat) => stat.includes(`(ublk${id}q`)).map((stat) => stat.split(') ')[1]?.split(' ')[POLICY] ?? '')
}

/** Of the threads that serve a device: their queue, and the CPUs that they may run on. */
function allowedCpus({ id, server }: { id: number; server: { pid: number } }): string[] {
  const statuses = readdirSync(`/proc/${server.pid}/task`).map((task) => readFileSync(`/proc/${server.pid}/task/${task}/status`, 'utf8'))
  const field = (status: string, name: string): string => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? ''
  const serving = statuses.filter((status) => field(status, 'Name').startsWith(`ublk${id}q`))
  return serving.map((status) => `${field(status, 'Name').replace(/^ublk\d+/, '')}: ${field(status, 'Cpus_allowed_list')}`).sort()
}

test.serial('recover: kill -9 of the server, and a new one goes on with the same bytes', async (t) => {
  const directory = temporaryDirectory()
  t.teardown(directory.remove)
  const image = join(directory.path, 'disk.img')
  const way = ['-q', '2', '--threads', '1', '--no-preempt']
  const first = await add(t, 'file', image, '--create', '-s', '16M', ...way, '--recovery', 'requeue')
  const oneOfBatch = ['3']
  t.deepEqual(policies(first), oneOfBatch)
  const data = randomBytes(256 * 1024)
  write(first.path, data)
  await killServer(t, first, 'quiesced')

  const recovered = await json(t, 'recover', String(first.id))
  t.deepEqual(policies(recovered), oneOfBatch)
  t.like(recovered, { id: first.id, path: first.path, state: 'live', queues: 2, size: 16 * MIB })
  t.not(recovered.server.pid, first.server.pid)
  t.true(recovered.server.running)
  t.true(isAlive(recovered.server.pid))
  t.true(read(first.path).equals(data))
  t.true((await json(t, 'stats', String(first.id))).operations.read.requests > 0)
  t.is(JSON.parse(readFileSync(join(STATE, `${first.id}.json`), 'utf8')).pid, recovered.server.pid)

  await killServer(t, recovered, 'quiesced')
  const again = await ublk(['recover', first.path])
  t.is(again.stdout, `${first.path}\n`)
  t.true(read(first.path).equals(data))
  await del(t, String(first.id))
})

test.serial('recover: a module', async (t) => {
  const directory = temporaryDirectory({ 'backend.ts': MODULES.memory })
  t.teardown(directory.remove)
  const device = await add(t, join(directory.path, 'backend.ts'), '--set', 'size=16M', '--recovery', 'reissue')
  await killServer(t, device, 'quiesced')
  const reading = ublk(['recover', String(device.id)])
  t.is(read(device.path).length, 256 * 1024, 'a reader waits for the new server')
  t.is((await reading).status, 0)
  await del(t, String(device.id))
})

test.serial('recover: a record that is damaged or gone, and a file that is gone, leave the device as it is', async (t) => {
  const directory = temporaryDirectory()
  t.teardown(directory.remove)
  const image = join(directory.path, 'disk.img')
  const device = await add(t, 'file', image, '--create', '-s', '16M', '--recovery', 'requeue')
  const { id } = device
  const record = join(STATE, `${id}.json`)
  await killServer(t, device, 'quiesced')

  const whole = readFileSync(record)
  writeFileSync(record, whole.subarray(0, 100))
  assertReport(t, await ublk(['recover', String(id)]), 1, new RegExp(`${record} is damaged`))
  rmSync(record)
  const missing = await ublk(['recover', String(id), '--json'])
  t.like(errorOf(missing), { code: 'ERR_UBLK_NO_RECORD', deviceId: id, exitCode: 1 })
  t.regex(errorOf(missing).hint ?? '', /ublk del/)
  writeFileSync(record, whole)

  renameSync(image, `${image}.away`)
  assertReport(t, await ublk(['recover', String(id)]), 1, /disk\.img/)
  t.false(existsSync(image), 'a file that is missing must not be made anew')
  t.deepEqual(readFileSync(record), whole)
  renameSync(`${image}.away`, image)
  t.is((await ublk(['recover', String(id)])).status, 0)
  await del(t, String(id))
})

test.serial('recover: a device that is live, was made without recovery, or is not there', async (t) => {
  const [live, mortal] = await Promise.all([add(t, 'mem', '-s', '16M', '--recovery', 'requeue'), add(t, 'mem', '-s', '16M')])
  await killServer(t, mortal, 'dead')
  const ids = [live.id, mortal.id, 55].map((id) => ublk(['recover', String(id)]))
  const [ofLive, ofMortal, ofNone] = (await Promise.all(ids)) as [Outcome, Outcome, Outcome]
  assertReport(t, ofLive, 1, new RegExp(`is live: process ${live.server.pid} serves it`))
  assertReport(t, ofMortal, 1, /was made without recovery/)
  assertReport(t, ofNone, 3, /device 55 does not exist/)
  await del(t, String(live.id), String(mortal.id))
})

test.serial('quiesce: the server lets go and ends, and the next one takes over', async (t) => {
  const directory = temporaryDirectory()
  t.teardown(directory.remove)
  const device = await add(t, 'file', join(directory.path, 'disk.img'), '--create', '-s', '16M', '--recovery', 'requeue')
  const data = randomBytes(256 * 1024)
  write(device.path, data)
  t.deepEqual(await json(t, 'quiesce', String(device.id)), { id: device.id, state: 'quiesced' })
  t.false(isAlive(device.server.pid))
  t.true(existsSync(join(STATE, `${device.id}.json`)))
  t.false(existsSync(device.server.socket))
  t.deepEqual(await json(t, 'quiesce', String(device.id)), { id: device.id, state: 'quiesced' }, 'twice is the same as once')
  const recovered = await json(t, 'recover', String(device.id))
  t.true(read(device.path).equals(data))

  // Without its socket the kernel is told, and the server hears of it there.
  rmSync(device.server.socket)
  t.deepEqual(await json(t, 'quiesce', String(device.id)), { id: device.id, state: 'quiesced' })
  await waitUntil('the server has ended', () => !isAlive(recovered.server.pid))
  t.true(existsSync(join(STATE, `${device.id}.json`)))
  t.is((await ublk(['recover', String(device.id)])).status, 0)
  await del(t, String(device.id))

  const plain = await add(t, 'null')
  assertReport(t, await ublk(['quiesce', String(plain.id)]), 1, /was made without recovery/)
  t.is((await list(t))[0]?.state, 'live')
  await del(t, String(plain.id))
  assertReport(t, await ublk(['quiesce', '55']), 3, /device 55 does not exist/)
  assertReport(t, await ublk(['quiesce', '55', '--timeout', 'soon']), 2, /--timeout soon is not a duration/)
  assertReport(t, await ublk(['quiesce', '55', '--timeout', '1441m']), 2, /--timeout 1441m is longer than a day/)
})

test.serial('quiesce: --timeout is the limit of the server, too, and who lets it pass is named', async (t) => {
  const way = ['-s', '16M', '--delay', '10s', '--recovery', 'reissue', '--no-part-scan']
  // With one tag the driver waits for it to be idle; with many it waits for none, and the server is waited for.
  const devices = [await add(t, 'fault', '--over', 'mem', ...way), await add(t, 'fault', '--over', 'mem', ...way, '-d', '1')]
  for (const { id, path, server } of devices) {
    const reading = promisify(execFile)('dd', [`if=${path}`, 'of=/dev/null', 'bs=4k', 'count=1', 'iflag=direct', 'status=none'])
    await waitUntil('a request is open', async () => (await json(t, 'stats', String(id))).inFlight > 0)
    const begin = performance.now()
    const outcome = await ublk(['quiesce', String(id), '--timeout', '1s'])
    const ms = performance.now() - begin
    assertReport(t, outcome, 7, new RegExp(`device ${id} is not quiesced after 1000 ms: process ${server.pid}, which serves it, `))
    t.regex(outcome.stderr, new RegExp(`Ask again; or \`kill -9 ${server.pid}\`, then \`ublk recover ${id}\``))
    t.true(ms > 1_000 && ms < 9_000, `${ms} ms`)
    await killServer(t, { id, server }, 'quiesced')
    await json(t, 'recover', String(id))
    await t.notThrowsAsync(reading)
  }
  t.is((await ublk(['quiesce', String(devices[0]?.id)])).status, 0)
  await del(t, ...devices.map(({ id }) => String(id)))
})

test.serial('recover: a device that another program made under the number of the record is left alone', async (t) => {
  const { id, server } = await add(t, 'mem', '-s', '16M', '--recovery', 'requeue', '--no-part-scan')
  await killServer(t, { id, server }, 'quiesced')
  // It knows nothing of records, and dies in its turn.
  const script = `import('ublk').then(async ({ createDevice, deleteDevice, memory }) => {
    await deleteDevice(${id})
    await createDevice({ backend: memory({ size: '16MiB' }), id: ${id}, recovery: 'requeue' })
    console.log('live')
  })`
  const other = spawn(process.execPath, ['-e', script], {
    cwd: join(import.meta.dirname, '..', '..'),
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(other.stdout, 'data')
  await killServer(t, { id, server: { pid: other.pid as number } }, 'quiesced')
  const refused = await ublk(['recover', String(id)])
  assertReport(t, refused, 1, new RegExp(`device ${id} is another one than that of its record`))
  t.is((await list(t))[0]?.state, 'quiesced')
  await del(t, String(id))
})

test.serial('del while a quiesce waits for a request removes the device, not only its record', async (t) => {
  if (!(await kernelFlags()).has('QUIESCE')) {
    t.pass('this kernel cannot quiesce')
    return
  }
  const { id, path } = await add(t, 'fault', '--over', 'mem', '-s', '16M', '--delay', '10s', '--recovery', 'reissue', '--no-part-scan')
  // A write, and far from the ends: what is read may be udev's, which has 10 s for each.
  const place = ['bs=4k', 'seek=1024', 'count=1', 'oflag=direct', 'status=none']
  const writing = promisify(execFile)('dd', ['if=/dev/zero', `of=${path}`, ...place])
  await waitUntil('the write is open', () => writesInFlight(id) === 1)
  const quiescing = askServer(join(STATE, `${id}.sock`), 'POST', '/quiesce?timeoutMs=60000', 90_000)
  await del(t, String(id))
  await t.notThrowsAsync(writing, 'what was open is answered')
  await quiescing.catch(() => {})
  t.deepEqual(await list(t), [])
})

/** Writes that are with the server. */
const writesInFlight = (id: number): number => Number(readFileSync(`/sys/block/ublkb${id}/inflight`, 'utf8').trim().split(/\s+/)[1])

const sizeSeen = (path: string): number => Number(execFileSync('blockdev', ['--getsize64', path], { encoding: 'utf8' }))

test.serial('resize: the device in use has the new size, and its next server too', async (t) => {
  const directory = temporaryDirectory({ 'backend.ts': MODULES.memory })
  t.teardown(directory.remove)
  const image = join(directory.path, 'disk.img')
  const device = await add(t, 'file', image, '--create', '-s', '16M', '--recovery', 'requeue')
  const id = String(device.id)
  t.deepEqual(await json(t, 'resize', id, '32M'), { id: device.id, size: 32 * MIB })
  t.is(sizeSeen(device.path), 32 * MIB)
  t.is(statSync(image).size, 32 * MIB)
  t.is(JSON.parse(readFileSync(join(STATE, `${id}.json`), 'utf8')).spec.device.size, String(32 * MIB))
  assertReport(t, await ublk(['resize', id, '1000']), 2, /a multiple of the block size 512/)
  assertReport(t, await ublk(['resize', id, 'large']), 2, /large/)
  await killServer(t, device, 'quiesced')
  t.is((await json(t, 'recover', id)).size, 32 * MIB)
  await del(t, id)

  const fixed = await add(t, 'file', image)
  assertReport(t, await ublk(['resize', String(fixed.id), '64M']), 1, /has 33554432 bytes, fewer than the 67108864 asked for/)
  t.is(sizeSeen(fixed.path), 32 * MIB)
  execFileSync('truncate', ['-s', '64M', image])
  t.is((await json(t, 'resize', String(fixed.id), '64M')).size, 64 * MIB)
  await del(t, String(fixed.id))

  const memory = await add(t, 'mem', '-s', '16M')
  t.is((await json(t, 'resize', String(memory.id), '8M')).size, 8 * MIB)
  assertReport(t, await ublk(['resize', String(memory.id), '32M']), 1, /in a mem device that was made with 16777216/)
  await del(t, String(memory.id))

  const module = await add(t, join(directory.path, 'backend.ts'), '--set', 'size=16M')
  assertReport(t, await ublk(['resize', String(module.id), '8M']), 1, /served by a module/)
  await del(t, String(module.id))
  assertReport(t, await ublk(['resize', '55', '8M']), 3, /device 55 does not exist/)
})

test.serial('cleanup: dead devices, records and sockets of servers that are gone; what can be recovered with --all', async (t) => {
  const [live, dead, waiting] = [
    await add(t, 'mem', '-s', '16M', '-n', '1'),
    await add(t, 'mem', '-s', '16M', '-n', '2'),
    await add(t, 'mem', '-s', '16M', '-n', '3', '--recovery', 'requeue'),
  ]
  const young = await Device.create({ backend: nullTarget({ size: MIB }), id: 4 })
  await killServer(t, dead, 'dead')
  await killServer(t, waiting, 'quiesced')
  writeFileSync(join(STATE, '9.json'), readFileSync(join(STATE, '2.json')))
  writeFileSync(join(STATE, '10.sock'), '')
  const found = [
    { id: 2, kind: 'orphan', reason: `dead, its server ${dead.server.pid} is gone` },
    { id: 3, kind: 'recoverable', reason: `quiesced, its server ${waiting.server.pid} is gone` },
    { id: 9, kind: 'stale', reason: `${STATE}/9.json is the record of device 2` },
    { id: 10, kind: 'stale', reason: 'a socket without a record' },
  ]
  t.deepEqual(await json(t, 'cleanup', '--dry-run'), { found: found.map((finding) => ({ ...finding, removed: false })) })
  t.is((await list(t)).length, 4)

  const isRecoverable = ({ kind }: { kind: string }): boolean => kind === 'recoverable'
  const first = await json(t, 'cleanup')
  t.deepEqual(first, { found: found.map((finding) => ({ ...finding, removed: !isRecoverable(finding) })) })
  t.deepEqual(
    (await list(t)).map(({ id }) => id),
    [1, 3, 4],
  )
  t.deepEqual(readdirSync(STATE).sort(), ['1.json', '1.sock', '3.json', '3.sock'])

  const second = await ublk(['cleanup', '--all'])
  t.regex(second.stdout, /^ *3 +recoverable +removed +quiesced/m)
  t.is((await ublk(['cleanup'])).stdout, 'nothing to clean up\n')
  t.is((await list(t)).find(({ id }) => id === 1)?.state, 'live')
  await young.close()
  await del(t, String(live.id))
})

test.serial('cleanup: a number that a new device has by now is left alone', async (t) => {
  const dead = await add(t, 'mem', '-s', '16M', '-n', '2')
  await killServer(t, dead, 'dead')
  writeFileSync(join(STATE, '9.json'), readFileSync(join(STATE, '2.json')))
  writeFileSync(join(STATE, '10.sock'), '')
  const found = await findOrphans()
  t.deepEqual(
    found.map(({ id, kind }) => [id, kind]),
    [
      [2, 'orphan'],
      [9, 'stale'],
      [10, 'stale'],
    ],
  )
  // While the first ones are removed, others use the numbers of the next; the last is gone without us.
  await del(t, '2')
  const [second, ninth] = [await add(t, 'null', '-n', '2'), await add(t, 'null', '-n', '9')]
  rmSync(join(STATE, '10.sock'))
  for (const finding of found) t.false(await removeOrphan(finding), `device ${finding.id}`)
  for (const { id } of [second, ninth]) t.like(await json(t, 'stats', String(id)), { id })
  t.deepEqual(
    (await list(t)).map(({ id, state }) => [id, state]),
    [
      [2, 'live'],
      [9, 'live'],
    ],
  )
  await del(t, '2', '9')
})

test.serial('--cpus: each queue has one of them, also under the next server', async (t) => {
  const device = await add(t, 'null', '-q', '2', '--cpus', '1,0', '-r')
  const asGiven = ['q0: 1', 'q1: 0']
  t.deepEqual(allowedCpus(device), asGiven)
  await killServer(t, device, 'quiesced')
  t.deepEqual(allowedCpus(await json(t, 'recover', String(device.id))), asGiven)
  await del(t, String(device.id))
})

test.serial('affinity: every queue and its CPUs', async (t) => {
  const { id } = await add(t, 'null', '-q', '2')
  const { queues } = await json(t, 'affinity', String(id))
  // Which of the two CPUs a queue gets is the kernel's to say.
  const [{ cpus: first }, { cpus: second }] = queues
  t.deepEqual([...first, ...second].sort(), [0, 1])
  t.deepEqual(queues, [
    { queue: 0, cpus: first },
    { queue: 1, cpus: second },
  ])
  t.regex((await ublk(['affinity', String(id)])).stdout, new RegExp(`^QUEUE +CPUS\n +0 +${first}\n +1 +${second}\n$`))
  await del(t, String(id))
  assertReport(t, await ublk(['affinity', '55']), 3, /device 55 does not exist/)
})
