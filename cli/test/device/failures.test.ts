import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import test from 'ava'
import { errorOf, type Outcome, temporaryDirectory, ublk } from '../program.ts'
import { add, assertNothingLeft, assertReport, del, isAlive, leftovers, list, MODULES, waitUntil } from './device.ts'

test.afterEach.always(async (t) => {
  if (leftovers().length > 0) await ublk(['del', '--all'])
  await assertNothingLeft(t)
})

/** Runs a program without rights, and with a state directory of its own: without one, that alone would be the error. */
const NOBODY = [
  ...['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--'],
  ...['env', 'HOME=/tmp/nobody', 'XDG_RUNTIME_DIR=/tmp/nobody'],
]

test.serial('exit status 3: no such device', async (t) => {
  const verbs = ['info', 'stop', 'del', 'stats']
  const [json, ...plain] = await Promise.all([ublk(['info', '55', '--json']), ...verbs.map((verb) => ublk([verb, '55']))])
  for (const outcome of plain) assertReport(t, outcome, 3, /55/)
  t.like(errorOf(json), { code: 'ERR_UBLK_NO_DEVICE', deviceId: 55, exitCode: 3 })
})

test.serial('exit status 4: no rights', async (t) => {
  const commands = [['doctor'], ['list'], ['features'], ['add', 'null']]
  const [doctor, ...others] = (await Promise.all(commands.map((args) => ublk(args, { through: NOBODY })))) as [Outcome, ...Outcome[]]
  for (const outcome of others) assertReport(t, outcome, 4, /no permission for \/dev\/ublk-control/)
  t.is(doctor.status, 4, doctor.stdout)
  t.regex(doctor.stdout, /^fail +control: /m)
})

test.serial('exit status 5: the driver is not loaded', async (t) => {
  execFileSync('modprobe', ['-r', 'ublk_drv'])
  t.teardown(() => execFileSync('modprobe', ['ublk_drv']))
  const commands = [['doctor'], ['add', 'null', '--json'], ['list'], ['features'], ['add', 'null']]
  const [doctor, json, ...others] = (await Promise.all(commands.map((args) => ublk(args)))) as [Outcome, Outcome, ...Outcome[]]
  for (const outcome of others) assertReport(t, outcome, 5, /./)
  t.like(errorOf(json), { code: 'ERR_UBLK_DRIVER_MISSING', exitCode: 5 })
  t.is(doctor.status, 5, doctor.stdout)
  t.regex(doctor.stdout, /modprobe ublk_drv/)
})

test.serial('exit status 6: a second server for the same number; the first goes on', async (t) => {
  const { id, server } = await add(t, 'mem', '-s', '16M', '-n', '5')
  const second = ['add', 'null', '-n', '5']
  for (const outcome of await Promise.all([ublk(second), ublk([...second, '--foreground'])])) assertReport(t, outcome, 6, /5/)
  const [[listed], stats] = await Promise.all([list(t), ublk(['stats', '5', '--json'])])
  t.like(listed, { id, state: 'live', pid: server.pid, target: { type: 'mem' } })
  t.like(JSON.parse(stats.stdout), { id })
  await del(t, '5')
})

// They are tried one by one: five servers that start at once share two emulated CPUs, and may not have half a minute each.
const FILES: [what: string, args: string[], message: RegExp][] = [
  ['is missing', ['missing.img'], /missing\.img/],
  ['is a directory', ['.'], /./],
  ['would be made in no directory', ['no/such/disk.img', '--create', '-s', '1M'], /no\/such\/disk\.img/],
  ['is made without a size', ['new.img', '--create'], /./],
  ['is empty', ['empty.img'], /./],
]

test.serial('a file that cannot be served is one clear line, nothing left', async (t) => {
  const directory = temporaryDirectory({ 'empty.img': '' })
  t.teardown(directory.remove)
  for (const [what, args, message] of FILES) {
    const outcome = await ublk(['add', 'file', ...args], { cwd: directory.path })
    t.true(outcome.status === 1 || outcome.status === 2, `a file that ${what}: ${outcome.stderr}`)
    assertReport(t, outcome, outcome.status ?? 0, message)
  }
})

// One that never opens, and exit status 7, is among the errors of test/errors: it takes half a minute.
const BROKEN: [module: keyof typeof MODULES, status: number, message: RegExp][] = [
  ['doesNotParse', 1, /backend\.ts/],
  ['throws', 1, /no such bucket/],
  ['hasNoRead', 1, /read/],
  ['hasNoSize', 2, /size/],
  ['factoryThrows', 1, /no such key/],
]

test.serial('a module that cannot be served is one clear line, nothing left', async (t) => {
  for (const [module, status, message] of BROKEN) {
    const directory = temporaryDirectory({ 'backend.ts': MODULES[module] })
    t.teardown(directory.remove)
    assertReport(t, await ublk(['add', './backend.ts'], { cwd: directory.path }), status, message)
  }
})

test.serial('a module that may not be read is one clear line', async (t) => {
  const directory = temporaryDirectory({ 'backend.ts': MODULES.memory })
  t.teardown(directory.remove)
  execFileSync('chmod', ['755', directory.path])
  execFileSync('chmod', ['000', join(directory.path, 'backend.ts')])
  const module = join(directory.path, 'backend.ts')
  const tried = [['--foreground'], []].map(async (flags) => {
    const outcome = await ublk(['add', './backend.ts', ...flags], { cwd: directory.path, through: NOBODY })
    assertReport(t, outcome, 1, new RegExp(`the backend module file://${module} cannot be loaded: EACCES`))
  })
  await Promise.all(tried)
})

test.serial('kill -9 of the server: list shows what is left, del removes device, record and socket', async (t) => {
  const { id, path, server } = await add(t, 'mem', '-s', '16M')
  process.kill(server.pid, 'SIGKILL')
  await waitUntil('the device is dead', async () => (await list(t))[0]?.state === 'dead')
  const [[listed], stats, doctor] = await Promise.all([list(t), ublk(['stats', String(id)]), ublk(['doctor'])])
  t.deepEqual(listed?.target, { type: 'mem' })
  assertReport(t, stats, 1, /no server/)
  t.regex(doctor.stdout, new RegExp(`^warn +leftover: device ${id} is dead`, 'm'))
  await del(t, path)
  await assertNothingLeft(t)
})

test.serial('kill -9 of the server with -r: quiesced, and del removes it', async (t) => {
  const { id, server } = await add(t, 'mem', '-s', '16M', '-r')
  process.kill(server.pid, 'SIGKILL')
  await waitUntil('the device is quiesced', async () => (await list(t))[0]?.state === 'quiesced')
  const doctor = (await ublk(['doctor'])).stdout
  t.regex(doctor, new RegExp(`^warn +leftover: device ${id} is quiesced and has no server\\n.*\`ublk recover ${id}\``, 'm'))
  await del(t, String(id))
  await assertNothingLeft(t)
})

test.serial('a record without a device is told by doctor, and removed by del, with 3', async (t) => {
  const { id, server } = await add(t, 'mem', '-s', '16M')
  process.kill(server.pid, 'SIGKILL')
  execFileSync(process.execPath, ['-e', `import('ublk').then(({ deleteDevice }) => deleteDevice(${id}))`], {
    cwd: join(import.meta.dirname, '..', '..'),
  })
  t.regex((await ublk(['doctor'])).stdout, new RegExp(`^warn +leftover: /run/ublk/${id}\\.json `, 'm'))
  assertReport(t, await ublk(['del', String(id)]), 3, /record .* removed/)
  await assertNothingLeft(t)
})

test.serial('the number of a killed server can be served again: its record and socket are replaced', async (t) => {
  const first = await add(t, 'mem', '-s', '16M', '-n', '3')
  process.kill(first.server.pid, 'SIGKILL')
  execFileSync(process.execPath, ['-e', "import('ublk').then(({ deleteDevice }) => deleteDevice(3))"], {
    cwd: join(import.meta.dirname, '..', '..'),
  })
  const second = await add(t, 'null', '-n', '3')
  t.true(isAlive(second.server.pid))
  const [[listed], stats] = await Promise.all([list(t), ublk(['stats', '3', '--json'])])
  t.like(JSON.parse(stats.stdout), { id: 3 })
  t.like(listed, { id: 3, target: { type: 'null' } })
  await del(t, '3')
})
