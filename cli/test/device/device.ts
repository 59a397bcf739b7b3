/** What the device tests share: root on a machine with ublk (in the VM), one test at a time. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import type { ExecutionContext } from 'ava'
import type { DescribedDevice, ListedDevice } from '../../src/lib/describe.ts'
import { type Outcome, ublk } from '../program.ts'

export const STATE = '/run/ublk'

type ServedDevice = DescribedDevice & { server: NonNullable<DescribedDevice['server']> }

/** A device made by `add ARGS…`, as `--json` tells it. */
export async function add(t: ExecutionContext, ...args: string[]): Promise<ServedDevice> {
  const { status, stdout, stderr } = await ublk(['add', ...args, '--json'])
  t.is(status, 0, stdout + stderr)
  return JSON.parse(stdout)
}

export async function list(t: ExecutionContext): Promise<ListedDevice[]> {
  const { status, stdout, stderr } = await ublk(['list', '--json'])
  t.is(status, 0, stdout + stderr)
  return JSON.parse(stdout).devices
}

export async function del(t: ExecutionContext, ...args: string[]): Promise<void> {
  const { status, stderr } = await ublk(['del', ...args])
  t.is(status, 0, stderr)
}

/** Fails unless devices, servers, records and sockets are all gone; waits a little for what the kernel does by itself. */
export async function assertNothingLeft(t: ExecutionContext, limitMs = 3_000): Promise<void> {
  const deadline = performance.now() + limitMs
  while (leftovers().length > 0 && performance.now() < deadline) await delay(50)
  t.deepEqual(leftovers(), [])
}

export function leftovers(): string[] {
  const nodes = readdirSync('/dev').filter((name) => /^ublk[bc]\d+$/.test(name))
  const records = existsSync(STATE) ? readdirSync(STATE).map((name) => `${STATE}/${name}`) : []
  return [...nodes, ...records, ...serverPids().map((pid) => `server ${pid}`)]
}

/** Processes that run the server's file. */
export function serverPids(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && /(\/cli\/(src|dist)\/server\.[tj]s|^ublk: )/.test(readText(`/proc/${name}/cmdline`)))
    .map(Number)
}

/** /proc/PID/stat from field 3 on: state, parent, group, session, terminal, … */
export function statFields(pid: number): string[] {
  const stat = readText(`/proc/${pid}/stat`)
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')
}

export function isAlive(pid: number): boolean {
  return /^State:\s+[^ZX]/m.test(readText(`/proc/${pid}/status`))
}

export function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** What takes longer hangs. An emulated machine that shares its CPUs with others, and with a load, takes tens of seconds to start a program. */
export const PATIENCE_MS = 180_000

/** The promise to users is that device and process are gone two seconds after the signal; emulated, on half a CPU, they take four times as long. */
export const STOP_LIMIT_MS = 8_000

export async function waitUntil(what: string, condition: () => boolean | Promise<boolean>, limitMs = PATIENCE_MS): Promise<void> {
  const deadline = performance.now() + limitMs
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not within ${limitMs} ms: ${what}`)
    await delay(20)
  }
}

export function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** Somebody who has a file open. Returns how to make him close it; the end of the test does too. */
export async function holdOpen(t: ExecutionContext, path: string): Promise<() => Promise<void>> {
  const holder = spawn('sh', ['-c', 'exec 3<"$0"; echo open; exec sleep 600', path], { stdio: ['ignore', 'pipe', 'inherit'] })
  const release = async (): Promise<void> => {
    if (holder.kill()) await once(holder, 'exit')
  }
  t.teardown(release)
  await once(holder.stdout, 'data')
  return release
}

/** An error report on standard error: one sentence, at most one hint, nothing on standard output. */
export function assertReport(t: ExecutionContext, outcome: Outcome, status: number, message: RegExp): void {
  t.is(outcome.status, status, outcome.stdout + outcome.stderr)
  t.is(outcome.stdout, '')
  t.regex(outcome.stderr, /^ublk: [^\n]+\n(hint: [^\n]+\n)?$/)
  t.regex(outcome.stderr, message)
}

/** The file beside a module that tells that it has come to the stage at which it stays. */
export const REACHED = 'reached'

const MARK = `import { writeFileSync } from 'node:fs'
const mark = () => writeFileSync(new URL('${REACHED}', import.meta.url), '')
`

/** The file beside the module `holds` that lets its requests go. */
export const RELEASE = 'release'
/** Where a request must begin for the module `holds` to hold it: nobody reads there unasked. */
export const HELD_OFFSET = 8 * 1024 * 1024

/** Backend modules, by what they do. */
export const MODULES = {
  memory: `
    export default ({ size = '64M' }) => {
      const data = Buffer.alloc(Number.parseInt(size) * 1024 * 1024)
      return {
        size,
        read(buf, offset) { data.copy(buf, 0, offset, offset + buf.length) },
        write(buf, offset) { buf.copy(data, offset) },
      }
    }`,
  neverLoads: `${MARK}mark()\nawait new Promise(() => setInterval(() => {}, 1000))\nexport default { size: 4096, read() {} }`,
  neverOpens: `${MARK}export default { size: '1M', open() { mark(); return new Promise(() => setInterval(() => {}, 1000)) }, read() {} }`,
  neverAnswers: `${MARK}export default { size: '1M', read() { mark(); return new Promise(() => setInterval(() => {}, 1000)) } }`,
  holds: `${MARK}
    import { existsSync } from 'node:fs'
    import { setTimeout } from 'node:timers/promises'
    const released = () => existsSync(new URL('${RELEASE}', import.meta.url))
    export default {
      size: '16M',
      async read(_, offset) {
        if (offset !== ${HELD_OFFSET}) return
        mark()
        while (!released()) await setTimeout(20)
      },
    }`,
  spins: `${MARK}export default { size: '1M', read() { mark(); for (;;); } }`,
  doesNotParse: 'export default {{{',
  throws: "throw new Error('no such bucket')",
  hasNoRead: "export default { size: '1M', write() {} }",
  hasNoSize: 'export default { read() {} }',
  factoryThrows: "export default () => { throw new Error('no such key') }",
} as const
