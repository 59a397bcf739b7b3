/**
 * A boot of a real kernel that runs one program of the checkout, whose output is a line of JSON for each cell.
 */
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

export const ROOT: string = fileURLToPath(new URL('../..', import.meta.url))
const BOOT_LIMIT_S = 3600

/** What the program said, and the machine's exit status. */
export async function boot<T>(kernel: string, command: string[], files: string[] = []): Promise<{ results: T[]; status: number | null }> {
  const options = files.flatMap((file) => ['--with', file])
  const machine = spawn('vm/run', ['--kernel', kernel, '--timeout', String(BOOT_LIMIT_S), ...options, '--', ...command], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = new Promise<number | null>((resolve) => machine.on('close', resolve))
  const results: T[] = []
  for await (const line of createInterface(machine.stdout)) results.push(JSON.parse(line) as T)
  return { results, status: await ended }
}
