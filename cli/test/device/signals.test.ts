import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { start, temporaryDirectory, ublk } from '../program.ts'
import {
  add,
  assertNothingLeft,
  assertReport,
  delay,
  isAlive,
  leftovers,
  list,
  MODULES,
  REACHED,
  STOP_LIMIT_MS,
  serverPids,
  statFields,
  waitUntil,
} from './device.ts'

test.afterEach.always(async (t) => {
  if (leftovers().length > 0) await ublk(['del', '--all'])
  await assertNothingLeft(t)
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  test.serial(`--foreground serves until ${signal}, then ends with 0 and leaves nothing`, async (t) => {
    const running = start(['add', 'mem', '-s', '16M', '--foreground'])
    const path = await running.firstLine
    t.regex(path, /^\/dev\/ublkb\d+$/)
    t.true(existsSync(path))
    running.kill(signal)
    const { status, stdout, stderr, msAfterSignal } = await running.outcome
    t.is(status, 0, stderr)
    t.is(stdout, `${path}\n`)
    t.is(stderr, '')
    t.true(msAfterSignal < STOP_LIMIT_MS, `${msAfterSignal} ms`)
    await assertNothingLeft(t, 0)
  })
}

test.serial('--foreground --json prints one value, when the device is live', async (t) => {
  const running = start(['add', 'mem', '-s', '16M', '--foreground', '--json'])
  const device = JSON.parse(await running.firstLine)
  t.like(device, { state: 'live', target: { type: 'mem' }, server: { pid: running.child.pid } })
  running.kill('SIGTERM')
  const { status, stdout } = await running.outcome
  t.is(status, 0)
  t.deepEqual(JSON.parse(stdout), device)
})

test.serial('del ends a server in the foreground', async (t) => {
  const running = start(['add', 'mem', '-s', '16M', '--foreground'])
  const path = await running.firstLine
  t.is((await ublk(['del', path])).status, 0)
  t.is((await running.outcome).status, 0)
})

test.serial('a detached server ends at SIGTERM and takes all with it', async (t) => {
  const { server } = await add(t, 'mem', '-s', '16M')
  const begin = performance.now()
  process.kill(server.pid, 'SIGTERM')
  await waitUntil('the server has ended', () => !isAlive(server.pid), STOP_LIMIT_MS)
  t.true(performance.now() - begin < STOP_LIMIT_MS)
  await assertNothingLeft(t, 0)
})

/** Modules that keep a start at one of its stages. */
const STAGES = ['neverLoads', 'neverOpens'] as const

for (const way of ['detached', 'foreground']) {
  for (const module of STAGES) {
    test.serial(`a signal ends a ${way} start with a module that ${module}`, async (t) => {
      const ended = (['SIGINT', 'SIGTERM'] as const).map(async (signal) => {
        const directory = temporaryDirectory({ 'backend.ts': MODULES[module] })
        t.teardown(directory.remove)
        const running = start(['add', './backend.ts', ...(way === 'foreground' ? ['--foreground'] : [])], { cwd: directory.path })
        await waitUntil('the stage is reached', () => existsSync(join(directory.path, REACHED)))
        running.kill(signal)
        const outcome = await running.outcome
        t.true(outcome.msAfterSignal < STOP_LIMIT_MS, `${signal}: ${outcome.msAfterSignal} ms`)
        assertReport(t, outcome, 1, new RegExp(signal))
      })
      await Promise.all(ended)
      await assertNothingLeft(t)
    })
  }
}

for (const module of ['neverAnswers', 'spins'] as const) {
  test.serial(`SIGTERM ends a server in the foreground whose module ${module}`, async (t) => {
    const directory = temporaryDirectory({ 'backend.ts': MODULES[module] })
    t.teardown(directory.remove)
    const running = start(['add', './backend.ts', '--foreground'], { cwd: directory.path })
    // Whether the device is live by then differs: kernels before 7.0 wait for the read of the partition table.
    await waitUntil('a request has come', () => existsSync(join(directory.path, REACHED)))
    running.kill('SIGTERM')
    const { signal, msAfterSignal } = await running.outcome
    t.is(signal, null)
    t.true(msAfterSignal < STOP_LIMIT_MS, `${msAfterSignal} ms`)
    await assertNothingLeft(t)
  })
}

/** `add`, interrupted after `ms`. */
async function interruptedAdd(t: ExecutionContext, ms: number): Promise<void> {
  const running = start(['add', 'mem', '-s', '16M'])
  await delay(ms)
  running.kill('SIGINT')
  const { status, stdout } = await running.outcome
  // What was printed decides, and not the status: the signal may still come while the process ends by itself.
  t.is(status === 0, stdout !== '' && status !== null, `after ${ms} ms: ${stdout}`)
  if (stdout !== '') t.is((await ublk(['del', stdout.trim()])).status, 0)
}

test.serial('SIGINT at any moment of add leaves nothing, or the device that was printed', async (t) => {
  for (let ms = 0; ms <= 6_000; ms += 1_000) {
    await Promise.all([interruptedAdd(t, ms), interruptedAdd(t, ms + 500)])
    await assertNothingLeft(t)
  }
})

test.serial('kill -9 of the launcher while it waits: the server takes its device away', async (t) => {
  const directory = temporaryDirectory({ 'backend.ts': MODULES.neverOpens })
  t.teardown(directory.remove)
  const running = start(['add', './backend.ts'], { cwd: directory.path })
  await waitUntil('the stage is reached', () => existsSync(join(directory.path, REACHED)))
  running.kill('SIGKILL')
  await running.outcome
  await assertNothingLeft(t, STOP_LIMIT_MS)
})

test.serial('kill -9 of the server while the launcher waits: an error, and nothing left', async (t) => {
  const directory = temporaryDirectory({ 'backend.ts': MODULES.neverOpens })
  t.teardown(directory.remove)
  const running = start(['add', './backend.ts'], { cwd: directory.path })
  await waitUntil('the stage is reached', () => existsSync(join(directory.path, REACHED)))
  for (const pid of serverPids()) process.kill(pid, 'SIGKILL')
  assertReport(t, await running.outcome, 1, /SIGKILL/)
  await assertNothingLeft(t)
})

/** Loaded first: the process gets SIGTERM when it makes its socket, and has it only when the signal has been heard. */
const SIGNALLED = `
  import { Server } from 'node:net'
  const { listen } = Server.prototype
  Server.prototype.listen = function (path, done) {
    process.once('SIGTERM', () => setTimeout(done, 100))
    return listen.call(this, path, () => process.kill(process.pid, 'SIGTERM'))
  }
`

test.serial('SIGTERM while the server makes its socket ends add and recover, and takes the device away', async (t) => {
  const env = { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(SIGNALLED)}` }
  assertReport(t, await ublk(['add', 'mem', '-s', '16M'], { env }), 1, /stopped by SIGTERM/)
  await assertNothingLeft(t)
  const { id, server } = await add(t, 'mem', '-s', '16M', '--recovery', 'requeue')
  process.kill(server.pid, 'SIGKILL')
  await waitUntil('the device is quiesced', async () => (await list(t))[0]?.state === 'quiesced')
  assertReport(t, await ublk(['recover', String(id)], { env }), 1, /stopped by SIGTERM/)
  await assertNothingLeft(t)
})

test.serial('--run gives the command the device, and ends with its status', async (t) => {
  const { status, stdout, stderr } = await ublk([
    'add',
    'mem',
    '-s',
    '16M',
    '--run',
    'test -b "$UBLK_DEVICE" && echo "$UBLK_DEVICE" && exit 41',
  ])
  t.is(status, 41, stderr)
  t.regex(stdout, /^\/dev\/ublkb\d+\n$/)
  await assertNothingLeft(t, 0)
})

test.serial('--run: not found is 127, killed is 128 + N, and --json is one value', async (t) => {
  const [missing, killed, { status, stdout, stderr }] = await Promise.all([
    ublk(['add', 'null', '--run', 'no-such-command']),
    ublk(['add', 'null', '--run', 'kill -9 $$']),
    ublk(['add', 'null', '--run', 'echo said; exit 3', '--json']),
  ])
  t.is(missing.status, 127)
  t.is(killed.status, 137)
  t.is(status, 3)
  t.is(stderr, 'said\n')
  t.like(JSON.parse(stdout), { device: { state: 'live' }, exitCode: 3 })
})

test.serial('--run passes signals on, and ends in time if the command does not', async (t) => {
  const obedient = start(['add', 'mem', '-s', '16M', '--run', 'echo ready; trap "exit 7" TERM; while :; do sleep 0.1; done'])
  t.is(await obedient.firstLine, 'ready')
  obedient.kill('SIGTERM')
  t.is((await obedient.outcome).status, 7)
  const deaf = start(['add', 'mem', '-s', '16M', '--run', 'echo ready; trap "" TERM; while :; do sleep 0.1; done'])
  t.is(await deaf.firstLine, 'ready')
  deaf.kill('SIGTERM')
  const { msAfterSignal } = await deaf.outcome
  t.true(msAfterSignal < STOP_LIMIT_MS, `${msAfterSignal} ms`)
  await assertNothingLeft(t)
})

test.serial('the server survives its terminal', async (t) => {
  // script(1) gives the launcher a terminal of its own, which goes when it ends.
  const program = JSON.stringify((await import('../program.ts')).PROGRAM)
  execFileSync('script', ['-qec', `${process.execPath} ${program} add mem -s 16M -n 9`, '/dev/null'], { stdio: 'ignore' })
  await delay(500)
  t.is(serverPids().length, 1)
  t.is(statFields(serverPids()[0] ?? 0)[4], '0', 'it has a terminal')
  t.is((await ublk(['del', '9'])).status, 0)
})
