/** `ublk serve` on a real kernel: what it keeps up, through which ends, and what it tells; and the hand-over that it rests on. */

import { execFile, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { promisify } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import { PROGRAM, type RunningProgram, start, temporaryDirectory, ublk } from '../program.ts'
import {
  add,
  assertNothingLeft,
  assertReport,
  delay,
  holdOpen,
  isAlive,
  leftovers,
  list,
  PATIENCE_MS,
  STATE,
  STOP_LIMIT_MS,
  waitUntil,
} from './device.ts'

const execute = promisify(execFile)
const LIMIT_MS = 900_000
const isCounted = process.env.UBLK_COUNTED !== undefined
/** The promise to users of a device whose server died, where a second is a second: in a machine that counts instructions. */
const RESUME_LIMIT_MS = isCounted ? 1_000 : PATIENCE_MS
/** The program and a server of `recover` start in this time, too: half a second each when instructions are counted. */
const RECOVER_LIMIT_MS = isCounted ? 2_000 : PATIENCE_MS

test.beforeEach((t) => t.timeout(LIMIT_MS))

test.afterEach.always(async (t) => {
  for (const running of supervisors.splice(0)) await kill(running, 'SIGKILL')
  if (leftovers().some((name) => name.startsWith('ublk'))) await ublk(['del', '--all'])
  await ublk(['cleanup', '--all'])
  if (existsSync(STATE)) for (const name of readdirSync(STATE)) if (name.endsWith('.lock')) rmSync(join(STATE, name))
  await assertNothingLeft(t)
})

type Told = { event: string; name?: string; id: number; pid: number; ms: number; [detail: string]: unknown }

interface Running {
  program: RunningProgram
  told: Told[]
  /** The next event of this kind that has not been returned yet. */
  next: (event: string, name?: string) => Promise<Told>
}

const supervisors: Running[] = []

function serve(file: string, { flags = [], env = {} }: { flags?: string[]; env?: Record<string, string> } = {}): Running {
  const program = start(['serve', '--config', file, '--json', ...flags], { limitMs: LIMIT_MS, env })
  const told: Told[] = []
  const seen = new Set<Told>()
  let rest = ''
  program.child.stdout?.on('data', (text: string) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    told.push(...lines.map((line) => JSON.parse(line)))
  })
  const next = async (event: string, name?: string): Promise<Told> => {
    const find = () => told.find((one) => !seen.has(one) && one.event === event && (name === undefined || one.name === name))
    await waitUntil(`${event} ${name ?? ''}`, () => find() !== undefined).catch((error: Error) => {
      throw new Error(`${error.message}; told: ${JSON.stringify(told)}`)
    })
    const one = find() as Told
    seen.add(one)
    return one
  }
  const running = { program, told, next }
  supervisors.push(running)
  return running
}

async function kill({ program }: Running, signal: NodeJS.Signals) {
  program.kill(signal)
  return program.outcome
}

type Device = { name: string; add: string[]; restart?: object }

/** A directory with FILE. */
function withFile(t: ExecutionContext, devices: Device[]) {
  const directory = temporaryDirectory()
  t.teardown(directory.remove)
  const file = join(directory.path, 'main.json')
  const write = (wanted: Device[]): void => writeFileSync(file, JSON.stringify({ devices: wanted }))
  write(devices)
  return { file, write, directory: directory.path }
}

const image = (name: string, ...more: string[]): Device => ({ name, add: ['file', `${name}.img`, '--create', '-s', '32M', ...more] })

/** Reads and writes that the device has completed. */
function counts(id: number): { reads: number; writes: number } {
  const fields = readFileSync(`/sys/block/ublkb${id}/stat`, 'utf8').trim().split(/\s+/).map(Number)
  return { reads: fields[0] ?? 0, writes: fields[4] ?? 0 }
}

function completed(id: number): number {
  const { reads, writes } = counts(id)
  return reads + writes
}

/** A load that compares: `stop` ends it, and fails if a byte was wrong or a request failed. */
interface Load {
  stop: () => Promise<void>
}

/** Writes that are read back and compared soon after, until they are stopped; they end by themselves at the first wrong byte or failed request. */
async function verifyingLoad(t: ExecutionContext, id: number): Promise<Load> {
  const fio = spawn(
    'fio',
    [
      ...['--name=verify', `--filename=/dev/ublkb${id}`, '--ioengine=io_uring', '--direct=1', '--rw=randwrite', '--bsrange=4k-64k'],
      ...['--iodepth=8', '--size=24M', '--verify=crc32c', '--verify_fatal=1', '--do_verify=1', '--verify_backlog=64', '--rate_iops=300'],
      ...['--time_based', `--runtime=${LIMIT_MS / 1000}`, '--randrepeat=0', '--output-format=json'],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  t.teardown(() => fio.kill('SIGKILL'))
  const ended = Promise.all([once(fio, 'exit'), text(fio.stdout)])
  const before = counts(id).reads
  await waitUntil('the load compares', () => counts(id).reads > before + 50)
  const stop = async (): Promise<void> => {
    if (!fio.kill('SIGINT')) throw new Error('fio has ended by itself')
    const [[status], output] = await ended
    const [job] = JSON.parse(output.slice(output.indexOf('{'), output.lastIndexOf('}') + 1)).jobs
    // 128: it was stopped by a signal, and found nothing wrong.
    if (status !== 128 || job.error !== 0 || job.read.io_bytes === 0)
      throw new Error(`fio: status ${status}, error ${job.error}, ${job.read.io_bytes} bytes compared`)
  }
  return { stop }
}

/** Milliseconds until the device completes requests again, from now, when it completes none. */
async function untilResumed(id: number): Promise<number> {
  const begin = performance.now()
  const before = completed(id)
  while (completed(id) === before) {
    if (performance.now() - begin > PATIENCE_MS) throw new Error(`no request in ${PATIENCE_MS} ms`)
    await delay(2)
  }
  return performance.now() - begin
}

test.serial('kill -9 of a server under load: another one takes over within a second, and no byte is lost', async (t) => {
  const { file } = withFile(t, [
    { ...image('disk', '-q', '2'), restart: { delay: '1ms' } },
    { name: 'other', add: ['mem', '-s', '16M'] },
  ])
  const running = serve(file)
  let { id, pid } = await running.next('started', 'disk')
  const other = await running.next('started', 'other')
  t.is((await running.next('ready')).devices, 2)
  const load = await verifyingLoad(t, id)
  for (const round of [1, 2, 3]) {
    process.kill(pid, 'SIGKILL')
    await waitUntil('the server is gone', () => !isAlive(pid))
    const ms = await untilResumed(id)
    const recovered = await running.next('recovered', 'disk')
    t.log(`round ${round}: I/O goes on after ${Math.round(ms)} ms; ${recovered.ms} ms from when it was seen`)
    t.true(ms < RESUME_LIMIT_MS, `${ms} ms`)
    t.is(recovered.id, id)
    t.not(recovered.pid, pid)
    pid = recovered.pid
    await delay(2_000)
  }
  await t.notThrowsAsync(load.stop())
  t.true(isAlive(other.pid), 'the server of another device goes on')
  t.is((await list(t)).find((device) => device.id === id)?.state, 'live')
  id = other.id
  process.kill(other.pid, 'SIGKILL')
  t.is((await running.next('recovered', 'other')).id, id)
})

test.serial('what a server has to warn of is told, once, with the name of the device', async (t) => {
  const { file, write, directory } = withFile(t, [])
  const socket = join(directory, 'nbd.sock')
  const nbd = spawn('nbdkit', ['--foreground', '-U', socket, 'memory', '4M'], { stdio: 'ignore' })
  t.teardown(() => nbd.kill('SIGKILL'))
  await waitUntil('nbdkit listens', () => existsSync(socket))
  write([{ name: 'remote', add: ['nbd', `nbd+unix:///?socket=${socket}`, '--patience', '1s'] }])
  const running = serve(file)
  const { id } = await running.next('started', 'remote')
  nbd.kill('SIGKILL')
  await once(nbd, 'exit')
  // A request finds it gone, and fails.
  t.throws(() => execFileSync('dd', [`if=/dev/ublkb${id}`, 'of=/dev/null', 'bs=4k', 'count=1', 'iflag=direct'], { stdio: 'ignore' }))
  const { at, message, time: _, ...rest } = await running.next('warning', 'remote')
  t.deepEqual(rest, { event: 'warning', name: 'remote', id } as never)
  t.regex(String(message), new RegExp(socket))
  t.true(Number.isFinite(Date.parse(String(at))))
  await delay(6_000)
  t.is(running.told.filter(({ event, message: told }) => event === 'warning' && told === message).length, 1)
  t.is((await kill(running, 'SIGTERM')).status, 0)
  await ublk(['del', String(id)])
})

test.serial('hot upgrade by hand: quiesce, a new server by recover, three times under load, and no byte is lost', async (t) => {
  const directory = temporaryDirectory()
  t.teardown(directory.remove)
  const { id, server } = await add(t, 'file', join(directory.path, 'disk.img'), '--create', '-s', '32M', '--recovery', 'requeue')
  const load = await verifyingLoad(t, id)
  let { pid } = server
  for (const round of [1, 2, 3]) {
    t.is((await ublk(['quiesce', String(id)])).status, 0)
    t.false(isAlive(pid))
    const before = completed(id)
    await delay(200)
    t.is(completed(id), before, 'requests wait')
    const begin = performance.now()
    const recovering = ublk(['recover', String(id), '--json'])
    const ms = await untilResumed(id)
    const { status, stdout } = await recovering
    t.is(status, 0, stdout)
    t.log(
      `round ${round}: I/O goes on ${Math.round(ms)} ms after the start of recover, which took ${Math.round(performance.now() - begin)} ms`,
    )
    t.true(ms < RECOVER_LIMIT_MS, `${ms} ms`)
    const { pid: next } = JSON.parse(stdout).server
    t.not(next, pid)
    pid = next
  }
  await t.notThrowsAsync(load.stop())
  t.is((await list(t))[0]?.pid, pid)
})

test.serial('kill -9 of the supervisor, and a new one: the devices were up all the time, and are kept up again', async (t) => {
  const { file } = withFile(t, [image('disk')])
  const first = serve(file)
  const { id, pid } = await first.next('started')
  const sequence = readFileSync(`/sys/block/ublkb${id}/diskseq`, 'utf8')
  const load = await verifyingLoad(t, id)
  await kill(first, 'SIGKILL')
  const second = serve(file)
  t.like(await second.next('adopted'), { name: 'disk', id, pid })
  await second.next('ready')
  await t.notThrowsAsync(load.stop())
  t.is(readFileSync(`/sys/block/ublkb${id}/diskseq`, 'utf8'), sequence)
  t.true(isAlive(pid))

  // A server that dies while there is no supervisor.
  await kill(second, 'SIGKILL')
  process.kill(pid, 'SIGKILL')
  const third = serve(file)
  const recovered = await third.next('recovered')
  t.is(recovered.id, id)
  t.is(readFileSync(`/sys/block/ublkb${id}/diskseq`, 'utf8'), sequence)
})

test.serial(
  'SIGTERM leaves the devices up, --stop-on-exit takes them along, and two supervisors of one file are one too many',
  async (t) => {
    const { file } = withFile(t, [image('disk', '-n', '5'), { name: 'scratch', add: ['mem', '-s', '16M'] }])
    const first = serve(file)
    const { pid } = await first.next('started', 'disk')
    await first.next('ready')
    const second = await ublk(['serve', '-c', file])
    assertReport(t, second, 6, new RegExp(`main\\.json has its \`ublk serve\`: process ${first.program.child.pid}`))
    assertReport(t, await ublk(['recover', '5']), 6, new RegExp(`process ${first.program.child.pid}\\) recovers it`))

    const outcome = await kill(first, 'SIGTERM')
    t.is(outcome.status, 0, outcome.stderr)
    t.true(outcome.msAfterSignal < STOP_LIMIT_MS, `${outcome.msAfterSignal} ms`)
    t.true(isAlive(pid))
    t.deepEqual(
      (await list(t)).map(({ state }) => state),
      ['live', 'live'],
    )

    const third = serve(file, { flags: ['--stop-on-exit'] })
    t.is((await third.next('adopted', 'disk')).pid, pid)
    await third.next('ready')
    t.is((await kill(third, 'SIGINT')).status, 0)
    t.deepEqual(await list(t), [])
    t.false(isAlive(pid))
  },
)

test.serial('SIGHUP: adds, removes, grows, and makes anew what nobody uses; a wrong file changes nothing', async (t) => {
  const scratch: Device = { name: 'scratch', add: ['mem', '-s', '16M'] }
  const { file, write } = withFile(t, [image('disk'), scratch])
  const running = serve(file)
  const disk = await running.next('started', 'disk')
  const memory = await running.next('started', 'scratch')
  await running.next('ready')
  const release = await holdOpen(t, `/dev/ublkb${memory.id}`)

  writeFileSync(file, '{ "devices": [')
  running.program.kill('SIGHUP')
  t.regex(((await running.next('reload-failed')).error as Error).message, /main\.json is not JSON/)
  const more: Device = { name: 'more', add: ['null'] }
  write([{ name: 'disk', add: ['file', 'disk.img', '--create', '-s', '64M'] }, more])
  running.program.kill('SIGHUP')
  t.like(await running.next('reloaded'), { added: ['more'], changed: ['disk'], removed: ['scratch'] })
  const added = await running.next('started', 'more')
  t.is((await running.next('resized', 'disk')).id, disk.id)
  t.is(execFileSync('blockdev', ['--getsize64', `/dev/ublkb${disk.id}`], { encoding: 'utf8' }), `${64 << 20}\n`)
  t.like(await running.next('in-use', 'scratch'), { id: memory.id, wish: 'remove' })
  t.true(existsSync(`/dev/ublkb${memory.id}`))
  // In use, and kept up as it was.
  process.kill(memory.pid, 'SIGKILL')
  await running.next('recovered', 'scratch')
  await release()
  t.is((await running.next('removed', 'scratch')).id, memory.id)
  t.false(existsSync(`/dev/ublkb${memory.id}`))

  write([
    { name: 'disk', add: ['file', 'disk.img', '--create', '-s', '64M'] },
    { name: 'more', add: ['null', '-d', '32'] },
  ])
  running.program.kill('SIGHUP')
  t.is((await running.next('removed', 'more')).id, added.id)
  const anew = await running.next('started', 'more')
  t.is((await list(t)).find(({ id }) => id === anew.id)?.depth, 32)
  t.true(isAlive(disk.pid), 'what has not changed has the server that it had')

  // What is taken out while nobody reads the file is removed by the next run.
  await kill(running, 'SIGTERM')
  write([{ name: 'disk', add: ['file', 'disk.img', '--create', '-s', '64M'] }])
  const later = serve(file)
  await later.next('adopted', 'disk')
  await later.next('removed', 'more')
  t.is((await list(t)).length, 1)
})

test.serial('a target that is broken is tried again later and later, then rarely, and at once when the file is read again', async (t) => {
  const restart = { delay: '200ms', longest: '300ms', tries: 3, rarely: '10m' }
  const { file, directory } = withFile(t, [{ name: 'broken', add: ['file', 'absent.img'], restart }, image('disk')])
  const running = serve(file)
  await running.next('started', 'disk')
  for (const [index, expected] of [200, 300, 300, 600_000].entries()) {
    t.regex(((await running.next('failed', 'broken')).error as Error).message, /absent\.img/)
    t.like(await running.next('backoff', 'broken'), { tries: index + 1, ms: expected, rarely: index === 3 })
  }
  t.like(await running.next('ready'), { devices: 1, givenUp: ['broken'] })
  writeFileSync(join(directory, 'absent.img'), '')
  truncateSync(join(directory, 'absent.img'), 16 << 20)
  // The same words of another spacing are a file that was read again.
  writeFileSync(
    file,
    JSON.stringify({ devices: [{ name: 'broken', add: ['file', 'absent.img'], restart: { ...restart, tries: 4 } }, image('disk')] }),
  )
  running.program.kill('SIGHUP')
  await running.next('started', 'broken')

  // A file that goes away under a device with recovery: its users wait, and go on when it is back.
  const { id, pid } = running.told.find(({ event, name }) => event === 'started' && name === 'disk') as Told
  renameSync(join(directory, 'disk.img'), join(directory, 'away.img'))
  process.kill(pid, 'SIGKILL')
  t.regex(((await running.next('failed', 'disk')).error as Error).message, /disk\.img/)
  renameSync(join(directory, 'away.img'), join(directory, 'disk.img'))
  t.is((await running.next('recovered', 'disk')).id, id)
})

test.serial('del and stop are undone, a device without recovery is made anew, and quiesce gives a device a new server', async (t) => {
  const { file } = withFile(t, [image('disk'), { name: 'mortal', add: ['mem', '-s', '16M', '--recovery', 'off'] }])
  const running = serve(file)
  const disk = await running.next('started', 'disk')
  const mortal = await running.next('started', 'mortal')
  process.kill(mortal.pid, 'SIGKILL')
  const again = await running.next('started', 'mortal')
  t.not(again.pid, mortal.pid)
  t.is((await ublk(['stop', String(again.id)])).status, 0)
  await running.next('started', 'mortal')
  t.is((await ublk(['quiesce', String(disk.id)])).status, 0)
  t.not((await running.next('recovered', 'disk')).pid, disk.pid)
  t.is((await ublk(['del', String(disk.id)])).status, 0)
  t.true(existsSync((await running.next('started', 'disk')).path as string))
})

/** Prints each datagram that comes to a Unix socket, on a line of its own. */
const LISTENER = `import socket, sys
address = sys.argv[1]
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind('\\0' + address[1:] if address[0] == '@' else address)
print('bound', flush=True)
while True: print(repr(listener.recv(4096).decode()), flush=True)`

async function notifySocket(t: ExecutionContext, address: string) {
  const listener = spawn('python3', ['-c', LISTENER, address], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => void listener.kill('SIGKILL'))
  let text = ''
  listener.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  await waitUntil('the socket is there', () => text.includes('bound'))
  return (): string[] => text.split('\n').slice(1, -1)
}

for (const kind of ['a path', 'an abstract socket']) {
  test.serial(`tells a service manager at ${kind} that it is ready, reads again, stops and lives`, async (t) => {
    const { file, directory } = withFile(t, [
      { name: 'late', add: ['file', 'late.img'], restart: { delay: '200ms', longest: '200ms', tries: 1_000 } },
    ])
    const address = kind === 'a path' ? join(directory, 'notify') : `@ublk-test-${process.pid}`
    const heard = await notifySocket(t, address)
    const running = serve(file, { env: { NOTIFY_SOCKET: address, WATCHDOG_USEC: '1000000' } })
    await running.next('failed')
    await waitUntil('a status', () => heard().some((line) => /STATUS=0 of 1 devices live; waiting for late \(.*late\.img/.test(line)))
    await waitUntil('a sign of life', () => heard().includes("'WATCHDOG=1'"))
    t.false(heard().includes("'READY=1'"))
    writeFileSync(join(directory, 'late.img'), Buffer.alloc(1 << 20))
    const { pid } = await running.next('started')
    await waitUntil('ready', () => heard().includes("'READY=1'"))
    t.true(heard().includes("'STATUS=1 of 1 devices live'"))
    t.notRegex(readFileSync(`/proc/${pid}/environ`, 'utf8'), /NOTIFY_SOCKET|WATCHDOG_USEC/)
    running.program.kill('SIGHUP')
    await running.next('reloaded')
    await waitUntil('reloading, then ready', () => {
      const at = heard().findIndex((line) => /^'RELOADING=1\\nMONOTONIC_USEC=\d+'$/.test(line))
      return at >= 0 && heard().slice(at).includes("'READY=1'")
    })
    await kill(running, 'SIGTERM')
    await waitUntil('stopping', () => heard().includes("'STOPPING=1'"))
  })
}

test.serial('a number that another program has by now is left alone', async (t) => {
  const { file } = withFile(t, [{ name: 'disk', add: ['mem', '-s', '16M', '--recovery', 'off'] }])
  const first = serve(file)
  const { id, pid } = await first.next('started')
  await kill(first, 'SIGTERM')
  process.kill(pid, 'SIGKILL')
  await waitUntil('the device is dead', async () => (await list(t))[0]?.state === 'dead')
  // It knows nothing of records.
  const script = `import('ublk').then(async ({ createDevice, deleteDevice, memory }) => {
    await deleteDevice(${id})
    await createDevice({ backend: memory({ size: '1MiB' }), id: ${id} })
    console.log('live')
  })`
  const cwd = join(import.meta.dirname, '..', '..')
  const other = spawn(process.execPath, ['-e', script], { cwd, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => other.kill('SIGKILL'))
  await once(other.stdout, 'data')
  const second = serve(file)
  const started = await second.next('started')
  t.not(started.id, id)
  t.true(isAlive(other.pid as number))
  t.true(existsSync(`/sys/block/ublkb${id}`))
  await kill(second, 'SIGTERM')
})

test.serial('under systemd: ready, restarted after kill -9, read again and stopped, the device and its server stay', async (t) => {
  const { file, write } = withFile(t, [{ name: 'disk', add: ['file', '/tmp/systemd.img', '--create', '-s', '16M'] }])
  t.teardown(() => rmSync('/tmp/systemd.img', { force: true }))
  const { stdout: unit } = await ublk(['serve', '--print-unit'])
  execFileSync('mkdir', ['-p', '/run/systemd/system', '/etc/systemd/system', '/etc/ublk'])
  execFileSync('ln', ['-sf', file, '/etc/ublk/main.json'])
  writeFileSync('/etc/systemd/system/ublk@.service', unit)
  execFileSync('systemd-analyze', ['verify', '/etc/systemd/system/ublk@.service'])
  writeFileSync('/etc/systemd/system/test.target', '[Unit]\nDescription=nothing\nDefaultDependencies=no\nAllowIsolate=yes\n')
  // Process 1 of a PID namespace: the machine's own is the harness.
  const manager = spawn(
    'unshare',
    [
      ...['--pid', '--mount', '--cgroup', '--fork', '--mount-proc', '--kill-child', '--propagation', 'unchanged', 'env', '-i'],
      ...['container=lxc', `PATH=${process.env.PATH}`, '/usr/lib/systemd/systemd', '--system', '--unit=test.target'],
    ],
    { stdio: ['ignore', 'ignore', 'ignore'] },
  )
  t.teardown(() => void manager.kill('SIGKILL'))
  const first = (): string => readFileSync(`/proc/${manager.pid}/task/${manager.pid}/children`, 'utf8').trim()
  await waitUntil('process 1', () => first() !== '')
  const systemctl = async (...args: string[]): Promise<string> =>
    (await execute('nsenter', ['-t', first(), '-p', '-m', 'systemctl', '--no-pager', ...args], { timeout: 120_000 })).stdout.trim()
  const show = (name: string): Promise<string> => systemctl('show', '--value', '-p', name, 'ublk@main')
  await waitUntil('systemd answers', () =>
    systemctl('list-jobs').then(
      () => true,
      () => false,
    ),
  )

  await systemctl('start', 'ublk@main')
  t.is(await show('ActiveState'), 'active')
  t.is(await show('StatusText'), '1 of 1 devices live')
  const pid = await show('MainPID')
  const [device] = await list(t)
  t.is(device?.state, 'live')
  const { id = -1 } = device ?? {}
  execFileSync('dd', ['if=/dev/zero', `of=/dev/ublkb${id}`, 'bs=64k', 'count=16', 'oflag=direct', 'status=none'])

  await systemctl('kill', '--signal=SIGKILL', '--kill-whom=main', 'ublk@main')
  await waitUntil('another supervisor', async () => (await show('ActiveState')) === 'active' && (await show('MainPID')) !== pid)
  t.is((await list(t))[0]?.pid, device?.pid, 'the server stays')

  write([
    { name: 'disk', add: ['file', '/tmp/systemd.img', '--create', '-s', '16M'] },
    { name: 'more', add: ['null', '-n', '9'] },
  ])
  await systemctl('reload', 'ublk@main')
  await waitUntil('the new device', () => existsSync('/dev/ublkb9'))
  await waitUntil('its status', async () => (await show('StatusText')) === '2 of 2 devices live')
  t.is(await show('ActiveState'), 'active')

  await systemctl('stop', 'ublk@main')
  t.is(await show('ActiveState'), 'inactive')
  t.is(await show('Result'), 'success')
  t.is((await list(t)).length, 2)
  execFileSync('dd', [`if=/dev/ublkb${id}`, 'of=/dev/null', 'bs=64k', 'count=16', 'iflag=direct', 'status=none'])
  for (const number of [id, 9])
    t.is((await execute('nsenter', ['-t', first(), '-p', '-m', process.execPath, PROGRAM, 'del', String(number)])).stderr, '')
})
