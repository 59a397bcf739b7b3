import { execFile, execFileSync, spawn, spawnSync } from 'node:child_process'
import { chownSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { promisify } from 'node:util'
import test from 'ava'
import { errorOf, type Outcome, ublk } from '../program.ts'
import { assertNothingLeft, isAlive, leftovers, waitUntil } from './device.ts'

const OWNER = 1000
const STRANGER = 1001
/** Where partition scans and udev do not read. */
const PLACE = 33 << 20
/** Time after which the kernel kills an unprivileged server that does not answer. */
const KERNEL_PATIENCE_MS = 30_000

const home = mkdtempSync('/tmp/ublk-user-')
chownSync(home, OWNER, OWNER)
const RULES = '/run/udev/rules.d/61-ublk.rules'
for (const user of [OWNER, STRANGER]) execFileSync('useradd', ['--uid', `${user}`, '--no-create-home', `user${user}`])

test.before('the rules that `ublk udev` prints are installed', async (t) => {
  const { status, stdout } = await ublk(['udev'])
  t.is(status, 0)
  mkdirSync(dirname(RULES), { recursive: true })
  writeFileSync(RULES, stdout)
  if (spawnSync('udevadm', ['verify', RULES]).error === undefined) execFileSync('udevadm', ['verify', RULES], { stdio: 'pipe' })
  // A reload may find udevd busy and break off.
  for (let times = 0; spawnSync('udevadm', ['control', '--reload']).status !== 0 && times < 10; times++) await setTimeout(500)
  for (let times = 0; (statSync('/dev/ublk-control').mode & 0o777) !== 0o666 && times < 10; times++) {
    execFileSync('udevadm', ['trigger', '--settle', '/dev/ublk-control'])
    await setTimeout(100)
  }
  t.is(statSync('/dev/ublk-control').mode & 0o777, 0o666)
})
test.after.always(() => {
  rmSync(RULES)
  rmSync(home, { recursive: true })
})
test.afterEach.always(async (t) => {
  if (leftovers().length > 0) await asUser(OWNER, 'del', '--all')
  await assertNothingLeft(t)
})

function through(user: number): string[] {
  return ['setpriv', '--reuid', `${user}`, '--regid', `${user}`, '--clear-groups', '--']
}

function asUser(user: number, ...args: string[]): Promise<Outcome> {
  return ublk(args, { through: through(user), env: { XDG_RUNTIME_DIR: home, HOME: home }, cwd: '/' })
}

test.serial('a user who is not root adds a device, uses it and takes it away; another user cannot', async (t) => {
  t.timeout(300_000)
  const added = await asUser(OWNER, 'add', 'mem', '--size', '64M', '--unprivileged', '--json')
  t.is(added.status, 0, added.stdout + added.stderr)
  const device = JSON.parse(added.stdout)
  t.like(device, { state: 'live', ownerUid: OWNER, dataPath: 'get-data' })
  t.true(device.flags.includes('UNPRIVILEGED_DEV'))
  for (const path of [device.path, device.charPath]) t.like(statSync(path), { uid: OWNER, gid: OWNER })
  const [command = '', ...words] = through(OWNER)
  execFileSync(command, [...words, 'mkfs.ext4', '-q', device.path])
  execFileSync(command, [...words, 'e2fsck', '-fn', device.path], { stdio: 'pipe' })

  const stranger = await asUser(STRANGER, 'stop', `${device.id}`, '--json')
  t.is(stranger.status, 4)
  t.is(errorOf(stranger).code, 'ERR_UBLK_PERMISSION')
  t.deepEqual(JSON.parse((await asUser(STRANGER, 'list', '--json')).stdout).devices, [])
  t.is(JSON.parse((await asUser(OWNER, 'list', '--json')).stdout).devices.length, 1)
  const gone = await asUser(OWNER, 'del', `${device.id}`)
  t.is(gone.status, 0, gone.stderr)
})

test.serial('what an unprivileged device cannot be is refused', async (t) => {
  t.timeout(300_000)
  const recovery = await asUser(OWNER, 'add', 'mem', '-s', '1M', '--unprivileged', '-r')
  t.is(recovery.status, 2)
  t.regex(recovery.stderr, /--recovery must be 'off' for an unprivileged device/)
  const path = await asUser(OWNER, 'add', 'mem', '-s', '1M', '--unprivileged', '--data-path', 'user-copy')
  t.regex(path.stderr, /--data-path must be 'auto', 'copy' or 'get-data' for an unprivileged device/)
  const delay = await asUser(OWNER, 'add', 'fault', '--over', 'mem', '-s', '1M', '--unprivileged', '--delay', '30s')
  t.is(delay.status, 2)
  t.regex(delay.stderr, /--delay in milliseconds must be less than 28000 for an unprivileged device, .*kills its server.*, got 30000/)
  const privileged = await asUser(OWNER, 'add', 'mem', '-s', '1M', '--json')
  t.is(privileged.status, 4)
  t.regex(String(errorOf(privileged).hint), /`ublk udev`.*--unprivileged/)
  const ordinary = JSON.parse((await ublk(['add', 'mem', '-s', '1M', '--json'])).stdout)
  t.is(statSync(ordinary.path).uid, 0)
  t.is((await ublk(['udev', '--owner', `ublkb${ordinary.id}`])).status, 1)
  await ublk(['del', `${ordinary.id}`])
  t.is((await ublk(['udev', '--owner', 'sda'])).status, 2)
  const root = await ublk(['add', 'mem', '-s', '1M', '--unprivileged', '--json'])
  t.is(errorOf(root).code, 'ERR_UBLK_INVALID_OPTION')
})

test.serial('a handler and an NBD server that never answer are answered for before the kernel kills ours', async (t) => {
  t.timeout(300_000)
  const module = join(home, 'silent.mjs')
  writeFileSync(
    module,
    `export default { size: 64 << 20, read: (buffer, offset) => (offset === ${PLACE} ? new Promise(() => {}) : undefined) }\n`,
  )
  const socket = join(home, 'nbd.sock')
  const [command = '', ...words] = through(OWNER)
  const nbdkit = spawn(command, [...words, 'nbdkit', '--foreground', '-U', socket, 'memory', '64M'], { stdio: 'ignore' })
  t.teardown(() => nbdkit.kill('SIGKILL'))
  await waitUntil('nbdkit listens', () => existsSync(socket))
  const serve = async (...target: string[]): Promise<{ path: string; server: { pid: number } }> => {
    const added = await asUser(OWNER, 'add', ...target, '--unprivileged', '--json')
    t.is(added.status, 0, added.stdout + added.stderr)
    return JSON.parse(added.stdout)
  }
  const [handler, client] = [await serve(module), await serve('nbd', `nbd+unix:///?socket=${socket}`)]
  nbdkit.kill('SIGSTOP') // it takes what its sockets hold, and does nothing
  const begun = performance.now()
  const read = (path: string): Promise<unknown> =>
    promisify(execFile)('dd', [`if=${path}`, 'of=/dev/null', 'bs=4k', `skip=${PLACE / 4096}`, 'count=1', 'iflag=direct'])
  const failed = t.throwsAsync(read(client.path), { message: /input\/output error/i })
  await t.throwsAsync(read(handler.path), { message: /timed out/i })
  t.true(performance.now() - begun < KERNEL_PATIENCE_MS)
  await failed
  await setTimeout(KERNEL_PATIENCE_MS + 5_000 - (performance.now() - begun))
  t.true(isAlive(handler.server.pid))
  t.true(isAlive(client.server.pid))
  t.is((await asUser(OWNER, 'del', '--all')).status, 0)
})
