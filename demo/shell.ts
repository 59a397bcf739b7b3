/**
 * Runs programs for the demo. Never blocks this thread: it may have a part in serving the device that the program uses.
 */
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

/** Output of a program that could not be shown better. */
const SHOWN_LINES = 12

/**
 * Runs a program and gives its standard output.
 * @throws with the end of what it said, when it fails or `signal` ends it
 */
export function run(program: string, args: string[], signal?: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted()
    // A process group of its own: Ctrl-C reaches us alone, and we end things in order.
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
    const end = (): void => void (child.pid !== undefined && process.kill(-child.pid, 'SIGTERM'))
    signal?.addEventListener('abort', end)
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    child.once('error', reject)
    child.once('exit', () => signal?.removeEventListener('abort', end))
    child.once('close', (status, name) => {
      if (status === 0) resolve(stdout)
      else reject(new Error(`${[program, ...args].join(' ')} ended with ${name ?? status}:\n${lastLines(`${stdout}${stderr}`)}`))
    })
  })
}

/** Whether a program is in the PATH. */
export function hasProgram(name: string): boolean {
  const folders = (process.env.PATH ?? '').split(delimiter)
  return folders.some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

function lastLines(text: string): string {
  return text.trimEnd().split('\n').slice(-SHOWN_LINES).join('\n')
}
