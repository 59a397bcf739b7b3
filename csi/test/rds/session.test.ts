import { once } from 'node:events'
import { chmodSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { status } from '@grpc/grpc-js'
import test from 'ava'
import { CsiError } from '../../src/errors.ts'
import { readPrivateKey } from '../../src/rds/config.ts'
import { refusal } from '../../src/rds/refusals.ts'
import { SshSession } from '../../src/rds/session.ts'
import { keyIn } from '../routeros/keys.ts'
import { lab, soon, wishOf } from './harness.ts'

test('a key that others may read is refused', async (t) => {
  const { config, another } = await lab(t)
  chmodSync(config.privateKeyFile, 0o640)
  await t.throwsAsync(another().probe(soon()), { instanceOf: CsiError, message: /mode 0640.*0600/ })
  t.throws(() => readPrivateKey('/nowhere/key'), { instanceOf: CsiError, message: /cannot be read/ })
})

test('another host key than the pinned one is refused and named, and nothing is sent', async (t) => {
  const { router, directory, another } = await lab(t)
  const other = keyIn(directory, 'other').publicKey.trim()
  const error = await t.throwsAsync(another({ hostKey: other }).probe(soon()), {
    instanceOf: CsiError,
    message: /has the host key SHA256:/,
  })
  t.is((error as CsiError).code, status.FAILED_PRECONDITION)
  const seen = /SHA256:\S+/.exec(error!.message)![0].replace(/,$/, '')
  t.is(router.logins, 0)
  await another({ hostKey: seen }).probe(soon())
  t.is(router.logins, 1)
})

test('a key that the router does not know is told as such, at once', async (t) => {
  const { directory, another } = await lab(t)
  const stranger = keyIn(directory, 'stranger').file
  const error = await t.throwsAsync(another({ privateKeyFile: stranger }).probe(soon()), { instanceOf: CsiError, message: /refuses admin/ })
  t.is((error as CsiError).code, status.UNAUTHENTICATED)
})

test('a file that holds no key is told by its name, at once', async (t) => {
  const { directory, another } = await lab(t)
  const privateKeyFile = join(directory, 'nonsense')
  writeFileSync(privateKeyFile, 'nonsense', { mode: 0o600 })
  const error = await t.throwsAsync(another({ privateKeyFile }).probe(soon()), {
    instanceOf: CsiError,
    message: /nonsense holds no SSH key/,
  })
  t.is((error as CsiError).code, status.FAILED_PRECONDITION)
})

test('a router that is not there is tried again, and then told', async (t) => {
  const { router, provider } = await lab(t)
  await router.stop()
  const error = await t.throwsAsync(provider.probe(soon()), { instanceOf: CsiError, message: /no SSH connection.*5 attempts/ })
  t.is((error as CsiError).code, status.UNAVAILABLE)
})

test('the connection is kept, and built again after a reboot', async (t) => {
  const { router, provider } = await lab(t)
  await provider.createVolume(wishOf('one'), soon())
  t.is(router.logins, 1)
  await router.reboot(10)
  await provider.createVolume(wishOf('two'), soon())
  t.is(router.logins, 2)
})

test('the limit of a command does not run while it waits for its turn', async (t) => {
  const { router, config } = await lab(t)
  const session = new SshSession({ ...config, commandTimeoutMs: 2_000 })
  t.teardown(() => session.close())
  router.faults.arm({ kind: 'slow', match: 'slow', times: 4, milliseconds: 600 })
  const replies = await Promise.all(Array.from({ length: 4 }, () => session.exec(':put "slow"', soon())))
  t.deepEqual(replies, Array(4).fill('slow\r\n'))
})

test('a command that hangs is given up though it waited for longer than its limit, and the next one runs', async (t) => {
  const { router, config } = await lab(t)
  const session = new SshSession(config)
  t.teardown(() => session.close())
  router.faults.arm({ kind: 'slow', match: 'first', milliseconds: 600 }, { kind: 'slow', match: 'hang', milliseconds: 6_000 })
  const first = session.exec(':put "first"', soon())
  const hangs = session.exec(':put "hang"', soon(5_000), 200)
  const next = session.exec(':put "next"', soon(5_000))
  t.is(await first, 'first\r\n')
  const error = await t.throwsAsync(hangs, { instanceOf: CsiError, message: /did not answer in time/ })
  t.is((error as CsiError).code, status.DEADLINE_EXCEEDED)
  t.is(await next, 'next\r\n')
})

test('the limit of a command holds for the connection that it needs', async (t) => {
  const { config } = await lab(t)
  const silent = createServer().listen(0, '127.0.0.1')
  await once(silent, 'listening')
  const session = new SshSession({ ...config, port: (silent.address() as AddressInfo).port })
  t.teardown(async () => {
    await session.close()
    silent.close()
  })
  const error = await t.throwsAsync(session.exec(':put "x"', soon(5_000), 200), { instanceOf: CsiError, message: /before the router/ })
  t.is((error as CsiError).code, status.DEADLINE_EXCEEDED)
})

test('a configuration with a hole is refused by the name of the field', async (t) => {
  const { another } = await lab(t)
  for (const [change, message] of [
    [{ hostKey: '' }, /rds\.hostKey is missing/],
    [{ hostKey: 'yes' }, /neither SHA256/],
    [{ basePath: '/raid10/../etc' }, /file-path/],
    [{ user: 'admin+x y' }, /rds\.user/],
    [{ port: 70_000 }, /rds\.port/],
    [{ fence: 'on' as 'off' }, /rds\.fence/],
    [{ overcommit: 'yes' as unknown as boolean }, /rds\.overcommit must be a boolean/],
    [{ address: 7 as unknown as string }, /rds\.address must be a string/],
    [{ hostkey: 'x' } as object, /rds\.hostkey is no setting; there are address/],
  ] as const) {
    t.throws(() => another(change), { instanceOf: CsiError, message })
  }
})

test('what a router says becomes the status of the table', (t) => {
  const table: [string, status][] = [
    ['failure: not enough space', status.RESOURCE_EXHAUSTED],
    ['No space left on device', status.RESOURCE_EXHAUSTED],
    ['out of disk space', status.RESOURCE_EXHAUSTED],
    ['no such item', status.NOT_FOUND],
    ['failure: item with such slot already exists', status.ALREADY_EXISTS],
    ['invalid value for argument file-size', status.INVALID_ARGUMENT],
    ['input does not match any value of type', status.INVALID_ARGUMENT],
    ['bad command name copy (line 1 column 7)', status.FAILED_PRECONDITION],
    ['expected end of command (line 1 column 40)', status.FAILED_PRECONDITION],
    ['syntax error (line 1 column 7)', status.INTERNAL],
    ['std failure: not allowed (9)', status.PERMISSION_DENIED],
    ['not enough permissions (9)', status.PERMISSION_DENIED],
    ['failure: could not unmount, stop using it first', status.FAILED_PRECONDITION],
    ['compression only available for btrfs', status.INVALID_ARGUMENT],
    ['failure: dns name does not exist', status.INTERNAL],
  ]
  for (const [text, code] of table) {
    const error = refusal('adding the disk x', text)
    t.is(status[error.code], status[code], text)
    t.true(error.message.includes(text))
  }
})
