/** Starts the program as an operator does, in processes of their own, and waits for what it says. */

import { type ChildProcess, spawn } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

/** The sources; in the VM, where all is emulated, the compiled program. */
const PROGRAM = join(import.meta.dirname, '..', '..', 'bin', process.env.UBLK_VM === undefined ? 'dev.js' : 'ublk-csi.js')

/** Started many times in a machine that is emulated: what was compiled once is kept. */
const COMPILED = process.env.UBLK_VM === undefined ? {} : { NODE_COMPILE_CACHE: '/tmp/node-compiled' }

export interface Running {
  child: ChildProcess
  /** All that it has written. */
  text(): string
  /** Ends it and waits for its end. */
  end(signal?: NodeJS.Signals): Promise<void>
  /** Resolves when its log has this text. */
  says(text: string, limitMs?: number): Promise<void>
}

/** Starts `ublk-csi ARGS…`. */
export function startProgram(args: string[], logPath?: string): Running {
  return startChild(process.execPath, [PROGRAM, ...args], logPath)
}

export function startChild(program: string, args: string[], logPath?: string): Running {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...COMPILED } })
  const log = logPath === undefined ? null : createWriteStream(logPath, { flags: 'a' })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
      log?.write(chunk)
    })
  }
  const ended = new Promise<void>((resolve) => void child.once('close', () => resolve()))
  return {
    child,
    text: () => text,
    async end(signal = 'SIGTERM') {
      child.kill(signal)
      await ended
    },
    async says(wanted, limitMs = 180_000) {
      const deadline = performance.now() + limitMs
      while (!text.includes(wanted)) {
        if (performance.now() > deadline || child.exitCode !== null || child.signalCode !== null) {
          throw new Error(
            `"${wanted}" was not said within ${limitMs} ms (exit ${child.exitCode ?? child.signalCode}):\n${text.slice(-4000)}`,
          )
        }
        await delay(20)
      }
    },
  }
}
