import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
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

test('a record that was cut or changed, at any byte, is reported and never trusted', (t) => {
  const directory = directoryFor(t)
  directory.ensure()
  directory.write(stateOf(1))
  const path = directory.statePath(1)
  const whole = readFileSync(path)
  for (let at = 0; at < whole.length; at++) {
    writeFileSync(path, whole.subarray(0, at))
    assertReported(t, directory, `cut at byte ${at}`)
    for (const bit of [1, 0x20, 0x80]) {
      const changed = Buffer.from(whole)
      changed[at] = (changed[at] ?? 0) ^ bit
      writeFileSync(path, changed)
      assertReported(t, directory, `byte ${at} changed by ${bit}`)
    }
  }
  writeFileSync(path, Buffer.concat([whole, whole]))
  assertReported(t, directory, 'written twice')
  writeFileSync(path, whole)
  t.deepEqual(directory.inspect(1), { state: stateOf(1), problem: null })
})

function assertReported(t: ExecutionContext, directory: StateDirectory, what: string): void {
  const { state, problem } = directory.inspect(1)
  if (state !== null || !problem?.startsWith(`${directory.statePath(1)} is damaged`)) t.fail(`${what}: ${problem}`)
  if (directory.read(1) !== null) t.fail(`${what}: trusted`)
}

test('a write that stops half way leaves the former record, and what it began is found and removed', (t) => {
  const directory = directoryFor(t)
  directory.ensure()
  directory.write(stateOf(1))
  writeFileSync(join(directory.path, '.1.json'), '{"version"')
  writeFileSync(join(directory.path, '.2.json'), '{"version"')
  t.deepEqual(directory.read(1), stateOf(1))
  t.deepEqual(directory.ids(), [1, 2])
  t.deepEqual(directory.inspect(2), { state: null, problem: null })
  for (const id of [1, 2]) directory.remove(id)
  t.deepEqual(readdirSync(directory.path), [])
})

test('a record of another device says so', (t) => {
  const directory = directoryFor(t)
  directory.ensure()
  directory.write(stateOf(7))
  renameSync(directory.statePath(7), directory.statePath(2))
  t.deepEqual(directory.inspect(2), { state: null, problem: `${directory.statePath(2)} is the record of device 7` })
  mkdirSync(directory.statePath(3))
  t.regex(directory.inspect(3).problem ?? '', /cannot be read/)
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

/** Regression: the files of a new device with the same number went, too. */
test('only what was there before is removed: not the files of a new device with the same number', (t) => {
  const directory = directoryFor(t)
  directory.ensure()
  const fill = (state: ServerState): void => {
    directory.write(state)
    writeFileSync(directory.socketPath(state.id), '')
  }
  const dead = { ...ownIdentity(), startTicks: ownIdentity().startTicks + 1 }
  fill(stateOf(0))
  t.false(directory.removeFormer(0, dead), 'the same pid, and another process')
  t.false(directory.removeFormer(0, null), 'none before, and a server that runs now')
  t.true(existsSync(directory.socketPath(0)))
  t.true(directory.removeFormer(0, ownIdentity()))
  // A new server listens before it has a record.
  writeFileSync(directory.socketPath(0), '')
  t.false(directory.removeFormer(0, dead))
  t.true(directory.removeFormer(0, null))
  fill(stateOf(0, dead))
  t.true(directory.removeFormer(0, null))
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
