/** In the VM: the folder that install.test.ts left serves devices, on its own, away from the checkout. */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync } from 'node:fs'
import path from 'node:path'
import test from 'ava'
import { run } from '../device/support.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const user = '/tmp/user'
cpSync(path.join(ROOT, 'target/install/user'), user, { recursive: true, verbatimSymlinks: true })

async function assertKeepsData(device: string): Promise<void> {
  await run('dd', 'if=/dev/urandom', 'of=/tmp/data', 'bs=64k', 'count=16', 'status=none')
  await run('dd', 'if=/tmp/data', `of=${device}`, 'bs=64k', 'oflag=direct', 'conv=notrunc', 'status=none')
  await run('cmp', '-n', 1 << 20, '/tmp/data', device)
}

/** Environment in which `node` is the one of that version, and nothing leads to the checkout's packages. */
function environment(major: string): NodeJS.ProcessEnv {
  const suffix = major === '24' ? '' : `-${major}`
  const bin = path.join(ROOT, `node_modules/node-linux-${process.arch}${suffix}/bin`)
  return { PATH: `${bin}:/usr/sbin:/usr/bin:/sbin:/bin`, HOME: '/root' }
}

for (const major of ['22', '24']) {
  const env = environment(major)

  for (const program of ['serve.mjs', 'serve.cjs']) {
    test.serial(`${program} serves a device on Node ${major}`, async (t) => {
      const server = spawn('node', [program], { cwd: user, env, stdio: ['ignore', 'pipe', 'inherit'] })
      t.teardown(() => server.kill('SIGKILL'))
      const ended = once(server, 'exit')
      const [line] = (await Promise.race([once(server.stdout, 'data'), ended])) as [unknown]
      t.true(Buffer.isBuffer(line), `the program ended with ${line}`)
      const device = String(line).trim()
      await assertKeepsData(device)
      server.kill('SIGTERM')
      t.deepEqual(await ended, [null, 'SIGTERM'])
      t.false(existsSync(device))
    })
  }

  test.serial(`ublk add, list, del on Node ${major}`, async (t) => {
    const ublk = (...args: string[]): Promise<string> =>
      new Promise((resolve, reject) => {
        execFile(path.join(user, 'node_modules/.bin/ublk'), args, { cwd: user, env, timeout: 60_000 }, (error, stdout, stderr) =>
          error === null ? resolve(stdout) : reject(new Error(`ublk ${args.join(' ')}: ${error.message}${stderr}`)),
        )
      })
    const device = (await ublk('add', 'mem', '-s', '64M')).trim()
    await assertKeepsData(device)
    const { devices } = JSON.parse(await ublk('list', '--json'))
    t.like(devices, [{ path: device, state: 'live', size: 64 << 20, target: { type: 'mem' } }])
    await ublk('del', device)
    t.false(existsSync(device))
  })
}
