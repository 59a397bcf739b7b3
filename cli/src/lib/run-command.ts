/** Runs the command of `add --run` in a shell and waits for it. */

import { spawn } from 'node:child_process'
import { constants } from 'node:os'

export interface RunOptions {
  /** Becomes UBLK_DEVICE. */
  device: string
  /** A stop signal for us: passed on to the command. Its reason is the name of the signal. */
  signal: AbortSignal
  /** Send its standard output to standard error. */
  quiet: boolean
}

/** After a stop signal: time for the command to end, so that device and process are gone within 2 s. */
const COMMAND_END_LIMIT_MS = 500

/** Resolves with its exit status, 128 + N when signal N ended it, as a shell has it. */
export function runCommand(command: string, { device, signal, quiet }: RunOptions): Promise<number> {
  const child = spawn('/bin/sh', ['-c', command], {
    stdio: ['inherit', quiet ? process.stderr : 'inherit', 'inherit'],
    env: { ...process.env, UBLK_DEVICE: device },
  })
  const passOn = (): void => {
    // Ctrl-C at a terminal reaches the command by itself; a second SIGINT would make many programs give up.
    if (signal.reason !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal.reason)
    setTimeout(() => child.kill('SIGKILL'), COMMAND_END_LIMIT_MS).unref()
  }
  if (signal.aborted) passOn()
  else signal.addEventListener('abort', passOn, { once: true })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code, name) => resolve(name === null ? (code ?? 1) : 128 + constants.signals[name]))
  })
}
