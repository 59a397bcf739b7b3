/**
 * One `ublk serve` for one FILE: a lock on a file in the state directory, which goes with the process that holds it, however that ends.
 *
 * flock(1) takes it: Node.js has no locks. The lock belongs to the open file, which flock shares with us and leaves to us; it is
 * close-on-exec, so no server inherits it. The lock's file stays: to remove one that somebody may be about to lock would let two in.
 */

import { spawnSync } from 'node:child_process'
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { EXIT, Failure } from './failure.ts'
import { isRunning, ownIdentity, type ProcessIdentity } from './process.ts'
import type { StateDirectory } from './state.ts'

export function lockPath(directory: StateDirectory, file: string): string {
  // Not by `import`: most who look for a lock find no FILE to look it up by, and its loading is a tenth of their start.
  const { createHash } = process.getBuiltinModule('node:crypto')
  return join(directory.path, `serve-${createHash('sha256').update(file).digest('hex').slice(0, 16)}.lock`)
}

/** The process that holds a lock, or null. */
export function holderOf(path: string): ProcessIdentity | null {
  try {
    const holder = JSON.parse(readFileSync(path, 'utf8')) as ProcessIdentity
    return isRunning(holder) ? holder : null
  } catch {
    return null
  }
}

/** Takes the lock of `file` until this process ends. */
export function lock(directory: StateDirectory, file: string): void {
  directory.ensure()
  const path = lockPath(directory, file)
  const fd = openSync(path, 'a+', 0o600)
  const { status, error } = spawnSync('flock', ['-x', '-n', '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] })
  if (status !== 0) {
    closeSync(fd)
    throw error === undefined ? isHeld(file, holderOf(path)) : noFlock(error)
  }
  ftruncateSync(fd)
  writeSync(fd, JSON.stringify(ownIdentity()))
}

function isHeld(file: string, holder: ProcessIdentity | null): Failure {
  return new Failure({
    code: 'ERR_UBLK_BUSY',
    message: `${file} has its \`ublk serve\`${holder === null ? '' : `: process ${holder.pid}`}`,
    hint: 'To have it read FILE again, send it SIGHUP.',
    exitCode: EXIT.busy,
  })
}

function noFlock(error: Error): Failure {
  return new Failure(
    {
      code: 'ERR_UBLK_UNSUPPORTED',
      message: `flock(1) cannot be run: ${error.message}`,
      hint: 'Install util-linux, or the flock of busybox.',
      exitCode: EXIT.unsupported,
    },
    error,
  )
}
