/** What a user sees where ublk cannot run: each case in a process of its own. */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { mayUseIoUring } from '../../src/support.ts'

const INDEX = JSON.stringify(new URL('../../src/index.ts', import.meta.url).href)
const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** Runs `body` after `before`, with the library as `ublk`; its last expression printed as JSON. */
function run(before: string, body: string): unknown {
  const source = `${before}; const ublk = await import(${INDEX}); console.log(JSON.stringify(await (async () => { ${body} })()))`
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', source], { cwd: ROOT, encoding: 'utf8' })
  if (status !== 0) throw new Error(stderr)
  return JSON.parse(stdout)
}

const pretend = (name: string, value: string): string => `Object.defineProperty(process, '${name}', { value: '${value}' })`
const FAILED =
  'try { await ublk.createDevice({ backend: ublk.memory({ size: 4096 }) }) } catch ({ name, code, hint }) { return { name, code, hint } }'

for (const [name, value, hint] of [
  ['platform', 'darwin', /virtual machine/],
  ['arch', 's390x', /x64 and arm64/],
] as const) {
  test(`on the ${name} ${value} importing works, isSupported says why not, and createDevice rejects`, (t) => {
    const support = run(pretend(name, value), 'return ublk.isSupported()') as { reason: string; hint: string }
    t.like(support, { supported: false, code: 'ERR_UBLK_UNSUPPORTED' })
    t.true(support.reason.includes(value))
    t.regex(support.hint, hint)
    t.like(run(pretend(name, value), FAILED) as object, { name: 'UblkError', code: 'ERR_UBLK_UNSUPPORTED' })
  })
}

test('misuse is told before anything else, on every platform', (t) => {
  const body = 'try { await ublk.createDevice({}) } catch ({ name, code }) { return { name, code } }'
  t.deepEqual(run(pretend('platform', 'darwin'), body), { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' })
})

test('the library can be required', (t) => {
  const source = `const ublk = require(${JSON.stringify(fileURLToPath(JSON.parse(INDEX)))}); console.log(typeof ublk.createDevice)`
  const { stdout } = spawnSync(process.execPath, ['--input-type=commonjs', '-e', source], { cwd: ROOT, encoding: 'utf8' })
  t.is(stdout.trim(), 'function')
})

test('a module backend loads under node --input-type=module -e, whose arguments a worker refuses', (t) => {
  const source = `const { QueueWorker } = await import(${JSON.stringify(new URL('../../src/queue-worker.ts', import.meta.url).href)})
    const worker = new QueueWorker({ url: 'data:text/javascript,export default { read() {} }', options: {} }, 0)
    console.log(JSON.stringify((await worker.loaded).write)); await worker.terminate()`
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', source], { cwd: ROOT, encoding: 'utf8' })
  t.is(stdout.trim(), 'false', stderr)
})

test('importing keeps no process alive and installs no handler', (t) => {
  t.is(run('', "return process.listenerCount('exit') + process.listenerCount('SIGTERM') + process.listenerCount('SIGINT')"), 0)
})

for (const [disabled, group, user, may] of [
  ['0', '-1', { uid: 1000, gids: [1000] }, true],
  ['1', '-1', { uid: 0, gids: [0] }, true],
  ['1', '-1', { uid: 1000, gids: [1000] }, false],
  ['1', '44', { uid: 1000, gids: [1000] }, false],
  ['1', '44', { uid: 1000, gids: [44] }, true],
  ['1', '44', { uid: 1000, gids: [1000, 4, 44] }, true],
  ['2', '44', { uid: 1000, gids: [44] }, false],
  ['2', '44', { uid: 0, gids: [44] }, false],
] as const) {
  test(`io_uring_disabled ${disabled} with io_uring_group ${group}: user ${user.uid} in ${user.gids} ${may ? 'may' : 'may not'}`, (t) => {
    t.is(mayUseIoUring(disabled, group, { uid: user.uid, gids: [...user.gids] }), may)
  })
}
