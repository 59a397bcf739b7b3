import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { CsiClient } from '../support/client.ts'
import { startProgram } from '../support/programs.ts'

const exitOf = async (args: string[]): Promise<{ status: number | null; text: string }> => {
  const running = startProgram(args)
  await new Promise((resolve) => running.child.once('close', resolve))
  return { status: running.child.exitCode, text: running.text() }
}

test('a mistake in the flags ends with status 2 and one sentence, help with 0', async (t) => {
  t.deepEqual(await exitOf(['--mode', 'both']), {
    status: 2,
    text: 'ublk-csi: --mode "both" is not one of controller, node, all, daemon\n',
  })
  const { status, text } = await exitOf(['--help'])
  t.is(status, 0)
  t.true(text.startsWith('Usage: ublk-csi'))
})

test('SIGTERM ends a plugin in time, with a client connected; what it stands on need not be there', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ublk-csi-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const socket = join(directory, 'csi.sock')
  const flags = ['--mode', 'all', '--provider', 'ublk', '--node-id', 'n', '--socket', join(directory, 'none.sock')]
  const running = startProgram([...flags, '--endpoint', `unix://${socket}`, '--metrics', '127.0.0.1:0'])
  await running.says('"serving"')
  const client = new CsiClient(socket)
  t.teardown(() => client.close())
  t.like(await client.call('identity', 'getPluginInfo', {}), { name: 'ublk.csi.ublk.io', vendorVersion: '0.1.0' })
  const error = await t.throwsAsync<Error & { details: string }>(client.call('identity', 'probe', {}, 15_000))
  t.regex(error.details, /start `ublk-csi --mode daemon`/)
  const begunMs = performance.now()
  await running.end('SIGTERM')
  t.true(performance.now() - begunMs < 15_000)
  t.is(running.child.exitCode, 0)
  t.true(running.text().includes('"ended"'))
})
