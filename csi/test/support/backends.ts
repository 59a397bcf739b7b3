/** What a plugin stands on: the daemon over a pool, or the test router with exports through the kernel. In the VM. */

import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { makeXfsPool, sh } from './pool.ts'
import { type Running, startChild, startProgram } from './programs.ts'

export interface Backend {
  running: Running
  /** Flags of a plugin that uses it. */
  flags: string[]
}

/** The pool is made where there is none. */
export async function startDaemon(pool: string, isThere = false): Promise<Backend> {
  mkdirSync(dirname(pool), { recursive: true })
  if (!isThere) makeXfsPool(pool)
  const socket = `${pool}.sock`
  const running = startProgram(['--mode', 'daemon', '--pool', pool, '--socket', socket])
  await running.says('"serving"')
  return { running, flags: ['--socket', socket] }
}

export async function startRouter(directory: string): Promise<Backend> {
  sh('modprobe', '-a', 'nvmet-tcp', 'nvme-tcp')
  mkdirSync(directory, { recursive: true })
  const running = startChild(process.execPath, [join(import.meta.dirname, '..', 'routeros', 'main.ts'), '--dir', directory])
  await running.says('listens on')
  return { running, flags: ['--config', join(directory, 'rds.yaml')] }
}
