import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { isRunning, ownIdentity, startTicksOf, waitForEnd } from '../src/lib/process.ts'
import { type ServerState, StateDirectory } from '../src/lib/state.ts'
import { temporaryDirectory } from './program.ts'

const modeOf = (path: string): number => statSync(path).mode & 0o777

function stateOf(id: number, identity = ownIdentity()): ServerState {
  return {
    version: '0.1.0',
    id,
    ...identity,
    startedAt: '2026-01-01T00:00:00.000Z',
    spec: { target: { type: 'mem' }, device: { size: '1G' } },
  }
}

function directoryFor(t: { teardown(run: () => void): void }): StateDirectory {
  const { path, remove } = temporaryDirectory()
  t.teardown(remove)
  return new StateDirectory(join(path, 'deep', 'ublk'))
}

test('the directory is 0700, also when it was there with other rights', (t) => {
  const directory = directoryFor(t)
  mkdirSync(directory.path, { recursive: true })
  chmodSync(directory.path, 0o755)
  directory.ensure()
  t.is(modeOf(directory.path), 0o700)
})

test('a file in the place of the directory is an error with a hint', (t) => {
  const { path, remove } = temporaryDirectory({ ublk: '' })
  t.teardown(remove)
  const error = t.throws(() => new StateDirectory(join(path, 'ublk')).ensure()) as Error & { report: { hint: string; exitCode: number } }
  t.is(error.report.exitCode, 4)
  t.truthy(error.report.hint)
})

test('a record reads back as it was written, is 0600, and leaves no temporary file', (t) => {
  const directory = directoryFor(t)
  directory.ensure()
  directory.write(stateOf(3))
  directory.write({ ...stateOf(3), version: '0.2.0' })
  t.deepEqual(directory.read(3), { ...stateOf(3), version: '0.2.0' })
  t.is(modeOf(directory.statePath(3)), 0o600)
  t.deepEqual(readdirSync(directory.path), ['3.json'])
})

test('what is not a record reads as none', (t) => {
  const directory = directoryFor(t)
  directory.ensure()
  writeFileSync(directory.statePath(1), '{"id":1')
  writeFileSync(directory.statePath(2), '{"id":7,"pid":1}')
  t.is(directory.read(1), null)
  t.is(directory.read(2), null)
  t.is(directory.read(3), null)
})

test('numbers are found by record or socket, in order, and removed with both', (t) => {
  const directory = directoryFor(t)
  t.deepEqual(directory.ids(), [])
  directory.ensure()
  directory.write(stateOf(10))
  writeFileSync(directory.socketPath(9), '')
  writeFileSync(join(directory.path, 'other.txt'), '')
  t.deepEqual(directory.ids(), [9, 10])
  t.true(directory.remove(10))
  t.true(directory.remove(9))
  t.false(directory.remove(9))
  t.false(existsSync(directory.statePath(10)))
  t.deepEqual(directory.ids(), [])
})

test('a record whose process is gone, or is another by now, is not of a running server', (t) => {
  const directory = directoryFor(t)
  directory.ensure()
  directory.write(stateOf(0))
  t.is(directory.readServed(0)?.pid, process.pid)
  directory.write(stateOf(0, { ...ownIdentity(), startTicks: ownIdentity().startTicks + 1 }))
  t.is(directory.readServed(0), null)
  t.not(directory.read(0), null)
})

test('a process runs until it ends, and not as a zombie', async (t) => {
  const child = spawn('sleep', ['60'])
  await once(child, 'spawn')
  const identity = { pid: child.pid ?? 0, startTicks: startTicksOf(child.pid ?? 0) ?? -1 }
  t.true(isRunning(identity))
  t.false(await waitForEnd(identity, 20))
  child.kill('SIGKILL')
  t.true(await waitForEnd(identity, 5_000))
  t.false(isRunning(identity))
})
