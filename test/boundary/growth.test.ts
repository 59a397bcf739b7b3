/** Devices come and go in one process without growth, whatever serves them. UBLK_CYCLES says how many. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import test from 'ava'

const PROGRAM = fileURLToPath(new URL('./growth-program.ts', import.meta.url))
const CYCLES = process.env.UBLK_CYCLES ?? '200'

interface Held {
  fds: number
  threads: number
  rss: number
  arrayBuffers: number
}

test(`${CYCLES} devices come and go in one process without growth`, async (t) => {
  t.timeout(30 * 60_000)
  const args = ['--no-warnings', '--expose-gc', PROGRAM, CYCLES]
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 29 * 60_000 })
  const [early, late] = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Held) as [Held, Held]
  t.log(early, late)
  t.true(late.fds <= early.fds, `descriptors: ${early.fds} → ${late.fds}`)
  t.true(late.threads <= early.threads, `threads: ${early.threads} → ${late.threads}`)
  t.true(late.arrayBuffers < early.arrayBuffers + (1 << 20), `shared memory: ${early.arrayBuffers} → ${late.arrayBuffers} bytes`)
  t.true(late.rss < early.rss + (24 << 20), `resident: ${early.rss} → ${late.rss} bytes`)
})
