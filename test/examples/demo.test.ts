import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'

const DEMO = join(import.meta.dirname, '../../demo/demo.ts')

/** Emulated, and with other machines beside it. */
const LIMIT_MS = 480_000

interface Ended {
  status: number | null
  said: string
}

/** Runs the demo on this machine. `onOutput` sees all it has said so far. */
function demo(onOutput: (said: string, interrupt: () => void) => void = () => {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [DEMO, '--here'], { stdio: ['ignore', 'pipe', 'inherit'] })
    let said = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      said += text
      onOutput(said, () => child.kill('SIGINT'))
    })
    child.once('error', reject)
    child.once('close', (status) => resolve({ status, said }))
  })
}

const devicesOf = (said: string): string[] => said.match(/\/dev\/ublkb\d+/g) ?? []
const leftovers = (): string[] => [
  ...readdirSync(tmpdir()).filter((name) => name.startsWith('ublk-demo-')),
  ...readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .filter((line) => line.includes('ublk-demo-')),
]

test.serial('the demo shows three backends and leaves nothing behind', async (t) => {
  t.timeout(LIMIT_MS)
  const { status, said } = await demo()
  t.is(status, 0, said)
  for (const name of ['TypeScript', 'Rust memory', 'file'])
    t.regex(said, new RegExp(`^${name} +\\d+ +\\d+ +\\d+ / \\d+ +\\d+ / \\d+ +16 MiB +ok$`, 'm'))
  t.regex(said, /All is well, [\d.]+ s\.\n$/)
  t.is(said.match(/✓/g)?.length, 18)
  t.false(devicesOf(said).some(existsSync))
  t.deepEqual(leftovers(), [])
})

test.serial('Ctrl-C ends the demo in the middle and leaves nothing behind', async (t) => {
  t.timeout(LIMIT_MS)
  let interrupted = false
  const { status, said } = await demo((text, interrupt) => {
    // Its second step runs now.
    if (!interrupted && text.includes('✓ add')) {
      interrupted = true
      setTimeout(interrupt, 1000)
    }
  })
  t.is(status, 130, said)
  t.regex(said, /Stopped; everything is cleaned up\.\n$/)
  t.is(devicesOf(said).length, 1)
  t.false(devicesOf(said).some(existsSync))
  t.deepEqual(leftovers(), [])
})
