/**
 * In the VM: runs tests one after the other, each within its limit, and says a line of JSON for each. Ends early when a test has left a device
 * or did not end by itself: what comes next would be run on a machine that is not clean.
 *
 *   node scripts/removals-guest.ts JOBS, which is JSON: an array of GuestJob
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, copyFileSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { argv, exit, stdout } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'

export interface GuestJob {
  key: string
  command: string[]
  limitSeconds: number
  /** Put in the place of the checkout's own. */
  addon: string | null
}

export interface GuestResult {
  key: string
  /** Null: it did not end in its time. */
  status: number | null
  seconds: number
  output: string
}

const OUTPUT = '/tmp/removals-output'
/** The driver and udev take away what is left of a device in their own time. */
const LEFTOVERS_MS = 10_000
/** For a process that was killed: one whose requests hang may never end. */
const KILLED_MS = 5_000

const [native] = readdirSync('native').filter((name) => name.endsWith('.node'))
for (const job of JSON.parse(argv[2] ?? '[]') as GuestJob[]) {
  const result = await run(job)
  stdout.write(`${JSON.stringify(result)}\n`)
  if (result.status === null || !(await isClean())) break
}
exit()

async function run({ key, command, limitSeconds, addon }: GuestJob): Promise<GuestResult> {
  if (addon !== null) copyFileSync(addon, `native/${native}`)
  const [program, ...parameters] = command as [string, ...string[]]
  const file = openSync(OUTPUT, 'w')
  const began = performance.now()
  // A group of its own: what it starts is ended with it.
  const child = spawn(program, parameters, { detached: true, stdio: ['ignore', file, file] })
  closeSync(file)
  const ended = new Promise<number>((resolve) => {
    child.once('error', () => resolve(127))
    child.once('exit', (status) => resolve(status ?? 128))
  })
  const status = await Promise.race([ended, sleep(limitSeconds * 1000, null)])
  if (status === null) await kill(child, ended)
  const seconds = Math.round((performance.now() - began) / 1000)
  return { key, status, seconds, output: readFileSync(OUTPUT, 'utf8') }
}

async function kill({ pid }: ChildProcess, ended: Promise<number>): Promise<void> {
  if (pid !== undefined) process.kill(-pid, 'SIGKILL')
  await Promise.race([ended, sleep(KILLED_MS)])
}

async function isClean(): Promise<boolean> {
  const hasDevices = (): boolean => readdirSync('/dev').some((name) => /^ublk[bc]\d/.test(name))
  for (const until = performance.now() + LEFTOVERS_MS; hasDevices() && performance.now() < until; ) await sleep(100)
  return !hasDevices()
}
