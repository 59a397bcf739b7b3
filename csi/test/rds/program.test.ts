/** The test router as a program: it outlives kill -9 as a router outlives the loss of power. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { parse } from 'yaml'
import { RdsProvider } from '../../src/rds/provider.ts'
import { soon, wishOf } from './harness.ts'

const MAIN = new URL('../routeros/main.ts', import.meta.url).pathname

async function started(directory: string, listen: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, [MAIN, '--dir', directory, '--listen', listen, '--no-exports'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(child.stdout!, 'data')
  return child
}

async function killed(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  const ended = once(child, 'exit')
  child.kill(signal)
  await ended
}

test('its volumes are there after kill -9, and faults are armed by a file', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ublk-csi-router-'))
  let child = await started(directory, '127.0.0.1:0')
  const { rds } = parse(readFileSync(join(directory, 'rds.yaml'), 'utf8')) as { rds: Record<string, unknown> }
  const provider = new RdsProvider(rds, { retryDelaysMs: [100, 400, 1_000, 5_000] })
  t.teardown(async () => {
    await provider.close()
    await killed(child, 'SIGTERM')
    rmSync(directory, { recursive: true })
  })
  const made = await provider.createVolume(wishOf('one'), soon())
  await killed(child, 'SIGKILL')
  const listing = provider.volumes(soon())
  child = await started(directory, `127.0.0.1:${rds.port}`)
  t.deepEqual(await listing, [made])
  writeFileSync(join(directory, 'faults.json'), JSON.stringify([{ kind: 'no-space', match: '/disk add' }]))
  await t.throwsAsync(provider.createVolume(wishOf('two'), soon()), { message: /not enough space/ })
  await provider.createVolume(wishOf('two'), soon())
})
