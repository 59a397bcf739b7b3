/**
 * What readers of a device see when its JavaScript side fails, and how the process ends: an errno, in time, no abort, and no device left.
 *
 * Each test runs a process of its own (program.ts) under the Node.js that runs the tests, on a kernel with ublk.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { TRAP_OFFSET } from './trap-backend.ts'

const PROGRAM = fileURLToPath(new URL('./program.ts', import.meta.url))
/** Machines under emulation are slow; a hang lasts for ever. */
const LIMIT_MS = 60_000
const EIO = /Input\/output error/
const ETIMEDOUT = /timed out/
/** The process may end before or after the handler has answered. */
const ANSWERED = /Input\/output error|1\+0 records out/

interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
}

class Server {
  readonly lines: string[] = []
  readonly ended: Promise<Ended>
  id = -1
  readonly #child: ChildProcess

  constructor(...args: string[]) {
    const child = spawn(process.execPath, ['--no-warnings', PROGRAM, ...args], { stdio: ['pipe', 'pipe', 'pipe'] })
    this.#child = child
    this.ended = once(child, 'exit').then(([code, signal]) => ({ code, signal }) as Ended)
    createInterface(child.stdout).on('line', (line) => this.lines.push(line))
    createInterface(child.stderr).on('line', (line) => this.lines.push(`stderr: ${line}`))
  }

  /** Waits for a line; fails with all that was said. */
  async says(pattern: RegExp): Promise<string> {
    for (const until = Date.now() + LIMIT_MS; Date.now() < until; await delay(20)) {
      const found = this.lines.find((line) => pattern.test(line))
      if (found !== undefined) return found
      if (this.#child.exitCode !== null && !this.lines.some((line) => pattern.test(line))) break
    }
    throw new Error(`no line ${pattern}; exit code ${this.#child.exitCode}; it said:\n${this.lines.join('\n')}`)
  }

  async ready(): Promise<this> {
    this.id = Number((await this.says(/^ready \d+$/)).slice('ready '.length))
    return this
  }

  trigger(): void {
    this.#child.stdin?.write('now\n')
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** The end of the process, or an error with what it said. */
  async end(): Promise<Ended> {
    const ended = await Promise.race([this.ended, delay(LIMIT_MS, null, { ref: false })])
    if (ended === null) {
      this.#child.kill('SIGKILL')
      throw new Error(`still running; it said:\n${this.lines.join('\n')}`)
    }
    return ended
  }
}

/** Reads one block past the page cache. Resolves with what dd says of it. */
async function read(id: number, offset: number): Promise<string> {
  const args = [`if=/dev/ublkb${id}`, 'of=/dev/null', 'iflag=direct', 'bs=4096', 'count=1', `skip=${offset / 4096}`]
  const dd = spawn('dd', args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  dd.stderr.on('data', (data) => (said += data))
  const done = await Promise.race([once(dd, 'close'), delay(LIMIT_MS, null, { ref: false })])
  if (done === null) throw new Error('the reader hangs')
  return said
}

async function noDeviceLeft(t: ExecutionContext): Promise<void> {
  for (let tries = 0; tries < 100 && readdirSync('/sys/class/ublk-char').length > 0; tries++) await delay(50)
  t.deepEqual(readdirSync('/sys/class/ublk-char'), [])
}

function behaviour(title: string, run: (t: ExecutionContext) => Promise<void>): void {
  test.serial(title, async (t) => {
    t.timeout(3 * LIMIT_MS)
    await run(t)
    await noDeviceLeft(t)
  })
}

// The worker dies, the process and its other devices live.
for (const trap of ['exit', 'throw-later'] as const) {
  behaviour(`a worker that dies by ${trap} takes its device along, the reader gets EIO`, async (t) => {
    const server = await new Server('worker', trap).ready()
    t.regex(await read(server.id, TRAP_OFFSET), EIO)
    await server.says(/^error ERR_UBLK_BACKEND$/)
    await server.says(/^closed$/)
    t.deepEqual(await server.end(), { code: 0, signal: null }, server.lines.join('\n'))
  })
}

behaviour('a worker that exits in a synchronous handler, between blocking waits', async (t) => {
  const server = await new Server('worker-sync', 'exit').ready()
  t.regex(await read(server.id, TRAP_OFFSET), EIO)
  await server.says(/^closed$/)
  t.deepEqual(await server.end(), { code: 0, signal: null }, server.lines.join('\n'))
})

for (const place of ['main', 'worker'] as const) {
  behaviour(`a promise that never settles on ${place}: ETIMEDOUT, and the device lives on`, async (t) => {
    const server = await new Server(place, 'never', 'close').ready()
    t.regex(await read(server.id, TRAP_OFFSET), ETIMEDOUT)
    await server.says(/^timeout$/)
    t.regex(await read(server.id, 4096), /1\+0 records out/, 'other requests are served as before')
    t.regex(await read(server.id, TRAP_OFFSET), ETIMEDOUT, 'the same tag times out again')
    server.trigger()
    await server.says(/^closed$/)
    t.deepEqual(await server.end(), { code: 0, signal: null }, server.lines.join('\n'))
  })
}

for (const place of ['worker', 'worker-sync'] as const) {
  behaviour(`a handler that blocks its ${place} for ever: the worker is terminated, the reader gets EIO`, async (t) => {
    const server = await new Server(place, 'block').ready()
    t.regex(await read(server.id, TRAP_OFFSET), EIO)
    await server.says(/^closed$/)
    t.deepEqual(await server.end(), { code: 0, signal: null }, server.lines.join('\n'))
  })
}

for (const place of ['main', 'worker', 'worker-sync'] as const) {
  behaviour(`process.exit during I/O, backend on ${place}`, async (t) => {
    const server = await new Server(place, place === 'worker-sync' ? 'none' : 'slow', 'exit').ready()
    const reading = read(server.id, TRAP_OFFSET)
    await server.says(/^trapped$/)
    server.trigger()
    t.deepEqual(await server.end(), { code: 7, signal: null }, server.lines.join('\n'))
    t.regex(await reading, ANSWERED)
  })

  behaviour(`SIGTERM during I/O, backend on ${place}`, async (t) => {
    const server = await new Server(place, place === 'worker-sync' ? 'none' : 'slow').ready()
    const reading = read(server.id, TRAP_OFFSET)
    await server.says(/^trapped$/)
    server.kill('SIGTERM')
    t.deepEqual(await server.end(), { code: null, signal: 'SIGTERM' }, server.lines.join('\n'))
    t.regex(await reading, ANSWERED)
  })
}

behaviour('an uncaught error on the main thread during I/O', async (t) => {
  const server = await new Server('main', 'never', 'throw').ready()
  const reading = read(server.id, TRAP_OFFSET)
  await server.says(/^trapped$/)
  server.trigger()
  t.deepEqual(await server.end(), { code: 1, signal: null }, server.lines.join('\n'))
  t.regex(await reading, EIO)
})

behaviour('a device goes with the worker thread that owns it', async (t) => {
  const server = await new Server('owner-worker', 'never').ready()
  const reading = read(server.id, TRAP_OFFSET)
  await server.says(/^trapped$/)
  server.trigger()
  await server.says(/^owner ended$/)
  t.regex(await reading, EIO)
  t.deepEqual(await server.end(), { code: 0, signal: null }, server.lines.join('\n'))
})
