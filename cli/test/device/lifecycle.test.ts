import { execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type Outcome, temporaryDirectory, ublk } from '../program.ts'
import {
  add,
  assertNothingLeft,
  assertReport,
  del,
  HELD_OFFSET,
  holdOpen,
  isAlive,
  leftovers,
  list,
  MODULES,
  REACHED,
  RELEASE,
  readText,
  STATE,
  STOP_LIMIT_MS,
  serverPids,
  statFields,
  waitUntil,
} from './device.ts'

const MIB = 1024 * 1024

test.afterEach.always(async (t) => {
  if (leftovers().length > 0) await ublk(['del', '--all'])
  await assertNothingLeft(t)
})

/** Writes through the page cache to the device, and reads it back from the device. */
function checkData(t: ExecutionContext, path: string): void {
  const data = randomBytes(MIB)
  execFileSync('dd', [`of=${path}`, 'bs=128k', 'oflag=direct', 'iflag=fullblock', 'status=none'], { input: data })
  const back = execFileSync('dd', [`if=${path}`, 'bs=128k', 'count=8', 'iflag=direct', 'status=none'], { maxBuffer: 2 * MIB })
  t.true(back.equals(data))
}

test.serial('add prints the path alone; list, info and stats show the device; del takes it away', async (t) => {
  const shape = ['-q', '2', '-d', '32', '--max-io', '64K', '--block-size', '4096', '--physical-block-size', '8192', '--rotational']
  const added = await ublk(['add', 'mem', '--size', '64M', ...shape, '-n', '7'])
  t.is(added.status, 0, added.stderr)
  t.is(added.stderr, '')
  t.is(added.stdout, '/dev/ublkb7\n')
  t.true(statSync('/dev/ublkb7').isBlockDevice())
  checkData(t, '/dev/ublkb7')

  const commands = [['list'], ['info', '/dev/ublkb7'], ['info', '7', '--json'], ['info', '--json'], ['stats', '7', '--json'], ['stats']]
  const [[device], [text, info, infoJson, allJson, statsJson, statsText]] = await Promise.all([
    list(t),
    Promise.all(commands.map(async (args) => (await ublk(args)).stdout)) as Promise<[string, string, string, string, string, string]>,
  ])
  const { flags, pid, ...fixed } = device ?? t.fail()
  t.deepEqual(Object.keys(device ?? {}), [
    ...['id', 'path', 'charPath', 'state', 'size', 'logicalBlockSize', 'physicalBlockSize', 'queues', 'depth', 'maxIoBytes', 'pid'],
    ...['readOnly', 'flags', 'target'],
  ])
  t.deepEqual(fixed, {
    id: 7,
    path: '/dev/ublkb7',
    charPath: '/dev/ublkc7',
    state: 'live',
    size: 64 * MIB,
    logicalBlockSize: 4096,
    physicalBlockSize: 8192,
    queues: 2,
    depth: 32,
    maxIoBytes: 64 * 1024,
    readOnly: false,
    target: { type: 'mem' },
  })
  t.true(isAlive(pid))
  t.true(flags.includes('CMD_IOCTL_ENCODE'))

  t.regex(text, /^ID +PATH +STATE +SIZE +QUEUES +DEPTH +PID +TARGET\n/)
  t.regex(text, new RegExp(`^ *7 +/dev/ublkb7 +live +64MiB +2 +32 +${pid} +mem$`, 'm'))

  // With the number that the kernel gave the device, as dm-crypt, LVM and cgroups name it.
  const number = readText('/sys/block/ublkb7/dev').trim()
  t.regex(info, new RegExp(`^path +/dev/ublkb7 \\(${number}\\)$`, 'm'))
  t.regex(info, /^data path +(get-data|copy)$/m)
  const announced = (name: string): string => readFileSync(`/sys/block/ublkb7/queue/${name}`, 'utf8').trim()
  t.deepEqual(['rotational', 'physical_block_size', 'logical_block_size'].map(announced), ['1', '8192', '4096'])
  t.regex(info, new RegExp(`^server +${pid}, version `, 'm'))
  const described = JSON.parse(infoJson)
  t.like(described, { id: 7, target: { type: 'mem' }, server: { pid, running: true, socket: `${STATE}/7.sock`, recovery: 'off' } })
  t.deepEqual(JSON.parse(allJson), { devices: [described] })

  const stats = JSON.parse(statsJson)
  t.is(stats.id, 7)
  t.true(stats.operations.write.bytes >= MIB)
  t.true(stats.operations.read.requests >= 8)
  const { p50, p99, p999, max } = stats.operations.read.latency
  t.true(0 < p50 && p50 <= p99 && p99 <= p999 && p999 <= max * 1.1, JSON.stringify(stats.operations.read))
  t.regex(statsText, /^write +\d+ +\S+MiB +0 +\d/m)

  await del(t, '7')
  t.false(existsSync('/dev/ublkb7'))
  t.false(isAlive(pid))
  t.deepEqual(readdirSync(STATE), [])
  t.deepEqual(await list(t), [])
})

test.serial('the server is detached, and its record and socket are private', async (t) => {
  const { id, server } = await add(t, 'mem', '-s', '16M')
  t.is(Number(statFields(server.pid)[3]), server.pid, 'not the leader of its session')
  t.is(readlinkSync(`/proc/${server.pid}/cwd`), '/')
  for (const fd of [0, 1, 2]) t.is(readlinkSync(`/proc/${server.pid}/fd/${fd}`), '/dev/null')
  t.is(statSync(STATE).mode & 0o777, 0o700)
  t.is(statSync(server.socket).mode & 0o777, 0o600)
  t.is(statSync(join(STATE, `${id}.json`)).mode & 0o777, 0o600)
  t.like(JSON.parse(readText(join(STATE, `${id}.json`))), {
    id,
    pid: server.pid,
    spec: { target: { type: 'mem' }, device: { size: '16M' } },
  })
  await del(t, String(id))
})

test.serial('null needs no size, stores nothing', async (t) => {
  const { id, path, size, target } = await add(t, 'null')
  t.is(size, 250 * 1024 * MIB)
  t.deepEqual(target, { type: 'null' })
  execFileSync('dd', ['if=/dev/zero', `of=${path}`, 'bs=128k', 'count=8', 'oflag=direct', 'status=none'])
  await del(t, String(id))
})

test.serial('file: made on request, its size is the device’s, the data is in it', async (t) => {
  const directory = temporaryDirectory()
  t.teardown(directory.remove)
  const first = await add(t, 'file', join(directory.path, 'disk.img'), '--create', '-s', '16M')
  t.is(first.size, 16 * MIB)
  t.deepEqual(first.target, { type: 'file', path: join(directory.path, 'disk.img'), direct: false, create: true })
  const data = randomBytes(MIB)
  execFileSync('dd', [`of=${first.path}`, 'bs=1M', 'oflag=direct', 'iflag=fullblock', 'status=none'], { input: data })
  await del(t, first.path)
  const { stdout } = await ublk(['add', 'file', 'disk.img', '--read-only', '--json'], { cwd: directory.path })
  const second = JSON.parse(stdout)
  t.like(second, { size: 16 * MIB, readOnly: true })
  const back = execFileSync('dd', [`if=${second.path}`, 'bs=1M', 'count=1', 'status=none'], { maxBuffer: 2 * MIB })
  t.true(back.equals(data))
  await del(t, second.path)
})

test.serial('a module serves, and gets its options', async (t) => {
  const directory = temporaryDirectory({ 'backend.ts': MODULES.memory })
  t.teardown(directory.remove)
  const { stdout, stderr, status } = await ublk(['add', './backend.ts', '--set', 'size=8M', '--json'], { cwd: directory.path })
  t.is(status, 0, stdout + stderr)
  const { path, size, target } = JSON.parse(stdout)
  t.is(size, 8 * MIB)
  t.deepEqual(target, { type: 'module', path: join(directory.path, 'backend.ts'), options: { size: '8M' } })
  checkData(t, path)
  await del(t, path)
})

test.serial('stop: the block device goes, the record and its server stay until del', async (t) => {
  const { id, path, server } = await add(t, 'mem', '-s', '16M')
  const stopped = await ublk(['stop', path])
  t.is(stopped.status, 0, stopped.stderr)
  await waitUntil('the block device is gone', () => !existsSync(path))
  t.like((await list(t))[0], { id, state: 'dead', target: { type: 'mem' } })
  t.true(isAlive(server.pid))
  await del(t, String(id))
  t.false(isAlive(server.pid))
})

test.serial('stop --safe leaves a device that is open as it is, with 6, and stops it when nobody has it open', async (t) => {
  const { id, path } = await add(t, 'mem', '-s', '16M')
  const release = await holdOpen(t, path)
  assertReport(t, await ublk(['stop', String(id), '--safe']), 6, new RegExp(`${path} is in use`))
  t.like((await list(t))[0], { id, state: 'live' })
  checkData(t, path)
  await release()
  // The closing of a device that was written to is an event for udev, which looks at it once more.
  execFileSync('udevadm', ['settle'])
  const stopped = await ublk(['stop', path, '--safe', '--json'])
  t.is(stopped.status, 0, stopped.stdout)
  t.deepEqual(JSON.parse(stopped.stdout), { stopped: id })
  await waitUntil('the block device is gone', () => !existsSync(path))
  t.like((await list(t))[0], { id, state: 'dead' })
  await del(t, String(id))
})

test.serial('the server goes when another program removes its device', async (t) => {
  const { id, server } = await add(t, 'mem', '-s', '16M')
  execFileSync(process.execPath, ['-e', `import('ublk').then(({ deleteDevice }) => deleteDevice(${id}))`], {
    cwd: join(import.meta.dirname, '..', '..'),
  })
  await waitUntil('the server has ended', () => !isAlive(server.pid))
  await assertNothingLeft(t)
})

test.serial('del takes several, and --all; --async does not wait', async (t) => {
  for (const id of ['1', '2', '3', '4']) await add(t, 'null', '-n', id)
  t.deepEqual(JSON.parse((await ublk(['del', '1', '2', '2', '--json'])).stdout), { deleted: [1, 2] })
  t.deepEqual(JSON.parse((await ublk(['del', '4', '--async', '--json'])).stdout), { deleted: [4] })
  await waitUntil('device 4 is gone', () => !existsSync('/dev/ublkc4'))
  t.deepEqual(JSON.parse((await ublk(['del', '--all', '--json'])).stdout), { deleted: [3] })
  t.deepEqual(serverPids(), [])
})

test.serial('del --async does not wait for a request that the backend holds; the device goes later', async (t) => {
  const directory = temporaryDirectory({ 'backend.ts': MODULES.holds })
  t.teardown(directory.remove)
  const { stdout } = await ublk(['add', './backend.ts', '--json'], { cwd: directory.path })
  const { id, path, charPath, server } = JSON.parse(stdout)
  const reader = spawn('dd', [`if=${path}`, 'of=/dev/null', 'bs=4k', 'count=1', `skip=${HELD_OFFSET / 4096}`, 'iflag=direct'], {
    stdio: 'ignore',
  })
  const read = once(reader, 'exit')
  await waitUntil('the request has come', () => existsSync(join(directory.path, REACHED)))
  // What any command takes on this machine is not the removal's. A removal that waits takes the 20 s of the request's deadline.
  const any = await timed(() => list(t))
  const removal = await timed(() => del(t, String(id), '--async'))
  t.true(removal - any < STOP_LIMIT_MS, `${removal} ms, where list takes ${any} ms`)
  t.true(existsSync(charPath))
  t.true(isAlive(server.pid))
  writeFileSync(join(directory.path, RELEASE), '')
  await read
  await waitUntil('the server has ended', () => !isAlive(server.pid))
  await assertNothingLeft(t)
})

test.serial('del --async of a device whose server was killed', async (t) => {
  const { id, server } = await add(t, 'mem', '-s', '16M')
  process.kill(server.pid, 'SIGKILL')
  await waitUntil('the device is dead', async () => (await list(t))[0]?.state === 'dead')
  await del(t, String(id), '--async')
  await assertNothingLeft(t)
})

test.serial('del ends a server that a caller is connected to and says nothing', async (t) => {
  const { id, server } = await add(t, 'mem', '-s', '16M')
  const caller = connect(server.socket).on('error', () => undefined)
  await once(caller, 'connect')
  await del(t, String(id))
  t.false(isAlive(server.pid))
  await assertNothingLeft(t, 0)
})

test.serial('del goes on after a device that is not there, and fails with 3', async (t) => {
  await add(t, 'null', '-n', '2')
  assertReport(t, await ublk(['del', '1', '2']), 3, /device 1 does not exist/)
  await assertNothingLeft(t)
})

test.serial('del does not wait for those who hold the device open; it goes when they let go', async (t) => {
  const { id, path, server } = await add(t, 'mem', '-s', '16M')
  const holder = execFileSync('sh', ['-c', `sleep 600 <${path} >/dev/null 2>&1 & echo $!`], { encoding: 'utf8' }).trim()
  await del(t, String(id))
  t.false(isAlive(server.pid))
  process.kill(Number(holder))
  await assertNothingLeft(t)
})

test.serial('the socket answers metrics, stats, info and stop', async (t) => {
  const { id, server } = await add(t, 'mem', '-s', '16M')
  const metrics = await call(server.socket, 'GET', '/metrics')
  t.is(metrics.type, 'text/plain; version=0.0.4; charset=utf-8')
  t.regex(metrics.body, new RegExp(`^ublk_requests_total\\{device="${id}",op="read"\\} \\d+$`, 'm'))
  t.is(JSON.parse((await call(server.socket, 'GET', '/info')).body).id, id)
  t.is(JSON.parse((await call(server.socket, 'GET', '/stats')).body).inFlight, 0)
  t.is((await call(server.socket, 'POST', '/stop')).body, '{"stopped":true}\n')
  await waitUntil('the server has ended', () => !isAlive(server.pid))
})

test.serial('features in text and JSON', async (t) => {
  const [json, text] = await Promise.all([ublk(['features', '--json']), ublk(['features'])])
  const { mask, flags } = JSON.parse(json.stdout)
  t.like(flags[0], { bit: '0x1', name: 'UBLK_F_SUPPORT_ZERO_COPY' })
  // Linux 7.2 has all of them.
  t.deepEqual(
    flags.filter(({ here }: { here: boolean }) => !here),
    [],
  )
  const sum = flags.reduce((bits: bigint, { bit }: { bit: string }) => bits | BigInt(bit), 0n)
  t.is(sum, 0xfffffn)
  t.is(BigInt(mask) & sum, sum)
  t.regex(text.stdout, new RegExp(`^mask ${mask}\nFEATURE +BIT +HERE +SINCE +USED BY\n`))
})

test.serial('doctor is content with a machine that can serve', async (t) => {
  const [{ status, stdout }, text] = await Promise.all([ublk(['doctor', '--json']), ublk(['doctor'])])
  t.is(status, 0, stdout)
  const { ok, checks } = JSON.parse(stdout)
  t.true(ok)
  t.deepEqual(
    checks.filter(({ status }: { status: string }) => status === 'fail'),
    [],
  )
  t.is(text.status, 0)
})

async function timed(run: () => Promise<unknown>): Promise<number> {
  const begin = performance.now()
  await run()
  return performance.now() - begin
}

function call(socketPath: string, method: string, path: string): Promise<{ body: string; type: string | undefined }> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, method, path, agent: false }, async (response) => {
      const body = Buffer.concat(await response.toArray()).toString('utf8')
      resolve({ body, type: response.headers['content-type'] })
    })
    sent.once('error', reject).end()
  })
}

test.serial('list and stats without devices', async (t) => {
  const answers = await Promise.all(['list', 'stats', 'info'].map((verb) => ublk([verb, '--json'])))
  for (const { stdout } of answers) t.deepEqual(JSON.parse(stdout), { devices: [] })
})

test.serial('shmem: shows, adds and removes the memory that users share', async (t) => {
  const { flags } = JSON.parse((await ublk(['features', '--json'])).stdout) as { flags: { name: string; here: boolean }[] }
  if (!flags.some(({ name, here }) => here && name === 'UBLK_F_SHMEM_ZC')) {
    return assertReport(t, await ublk(['add', 'mem', '-s', '16M', '--data-path', 'shmem']), 5, /^ublk: this kernel has no SHMEM_ZC/)
  }
  const directory = temporaryDirectory()
  t.teardown(directory.remove)
  // Whole pages are all that the driver asks for; huge ones make it likelier that requests can use them.
  const [first, second] = ['first', 'second'].map((name) => join(directory.path, name)) as [string, string]
  for (const file of [first, second]) writeFileSync(file, Buffer.alloc(MIB))

  const { id, path, server } = await add(t, 'mem', '-s', '16M', '--shmem', first)
  const shared = async (...words: string[]): Promise<unknown> => {
    const { status, stdout, stderr } = await ublk(['shmem', String(id), ...words, '--json'])
    t.is(status, 0, stdout + stderr)
    return JSON.parse(stdout)
  }
  const fileId = (file: string): string => {
    const { dev, ino } = statSync(file)
    return `${dev}:${ino}`
  }
  const entry = (file: string, number: number, readOnly = false) => ({ path: file, readOnly, size: MIB, number, fileId: fileId(file) })
  const isMapped = (file: string): boolean => readText(`/proc/${server.pid}/maps`).includes(file)
  t.deepEqual(await shared(), { id, sharedMemory: [entry(first, 0)] })
  t.deepEqual(await shared('--add', second, '--read-only'), { id, sharedMemory: [entry(first, 0), entry(second, 1, true)] })
  t.true(isMapped(first) && isMapped(second))
  const { stdout: text } = await ublk(['shmem', path])
  t.is(text, `FILE${' '.repeat(second.length - 4)}  SIZE  ACCESS\n${first}   1MiB  read-write\n${second}  1MiB  read-only\n`)
  t.deepEqual(await shared('--remove', first), { id, sharedMemory: [entry(second, 1, true)] })
  t.false(isMapped(first))
  checkData(t, path)

  const refused = await Promise.all([
    ublk(['shmem', String(id), '--remove', first]),
    ublk(['shmem', String(id), '--add', second]),
    ublk(['shmem', String(id), '--add', join(directory.path, 'missing')]),
    ublk(['shmem', '4000']),
    ublk(['shmem', String(id), '--read-only']),
    ublk(['shmem', String(id), '--add', first, '--remove', second]),
  ])
  for (const [index, [status, message]] of (
    [
      [1, /^ublk: device \d+ shares no memory of \S+\/first\n/],
      [1, /^ublk: device \d+ shares the memory of \S+\/second already\n/],
      [1, /^ublk: \S+\/missing: No such file or directory\n/],
      [3, /^ublk: device 4000 does not exist\n/],
      [2, /--add/],
      [2, /--remove/],
    ] as const
  ).entries()) {
    assertReport(t, refused[index] as Outcome, status, message)
  }
  await del(t, String(id))

  const other = await add(t, 'mem', '-s', '16M')
  assertReport(t, await ublk(['shmem', String(other.id), '--add', first]), 1, /moves its data by get-data, not by shmem\n/)
  await del(t, String(other.id))
})
