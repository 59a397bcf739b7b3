/**
 * Everybody who serves a block device in a measurement: how each is started, found and ended.
 *
 * All have one queue of 128 requests, and hold the same bytes: SIZE of them, in memory.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { DeviceOptions } from 'ublk'
import { MEBIBYTES } from './fio.ts'
import { AGAIN, modes, schedulings } from './modes.ts'
import { openersOf } from './processes.ts'

export const SIZE: string = `${MEBIBYTES}MiB`
const DEPTH = '128'
const SHAPE = ['-q', '1', '-d', DEPTH]
/** Programs of others, brought by bench/peers. */
const PEERS = '/opt/peers'
/** Files of file targets: a tmpfs, so that no disk is measured. */
const FILES = '/tmp/bench'
/** Stands for the contestant's file in its arguments. */
const FILE = 'FILE'

/** A device that is live. */
export interface Serving {
  /** /dev/…; nobody else uses it. */
  path: string
  /** Processes that serve it; none when the kernel does. */
  pids: number[]
  /** `io_uring_enter` calls so far, where the server counts them. */
  enters(): Promise<number | null>
  stop(): Promise<void>
}

export interface Contestant {
  name: string
  /** Contestants of a group are live at the same time, and take turns. */
  group: 'null' | 'memory' | 'file'
  /** Why it cannot take part here, or null. */
  missing(): string | null
  start(): Promise<Serving>
}

const run = promisify(execFile)

export const contestants: Contestant[] = [
  ours('null', 'null', 'null', SIZE),
  ublkTool('kublk null', 'null', 'kublk', ['-t', 'null', ...SHAPE]),
  ublkTool('rublk null', 'null', 'rublk', ['null', ...SHAPE]),
  nullQueue('loop of the data plane', 'loop'),
  nullQueue('task for each tag', 'tasks'),
  kernelModule('null_blk', 'null', ['gb=1', 'nr_devices=1', 'submit_queues=1', `hw_queue_depth=${DEPTH}`], '/dev/nullb0'),

  ours('mem', 'memory', 'mem', SIZE),
  ours('mem, auto-zero-copy', 'memory', 'mem-zero-copy', SIZE),
  ours('JS worker, sync', 'memory', 'js-worker-sync', SIZE),
  ours('JS worker, async', 'memory', 'js-worker-async', SIZE),
  ours('JS main thread, sync', 'memory', 'js-main-sync', SIZE),
  loop('kernel loop', 'off'),
  loop('kernel loop, direct', 'on'),
  kernelModule('brd', 'memory', ['rd_nr=1', `rd_size=${MEBIBYTES * 1024}`], '/dev/ram0'),
  goUblk(),

  ours('file', 'file', 'file', FILE),
  ours('file, copy', 'file', 'file-copy', FILE),
  ublkTool('kublk loop', 'file', 'kublk', ['-t', 'loop', ...SHAPE, FILE]),
  ublkTool('kublk loop, auto-zero-copy', 'file', 'kublk', ['-t', 'loop', '--auto_zc', ...SHAPE, FILE]),
  ublkTool('rublk loop', 'file', 'rublk', ['loop', ...SHAPE, '-f', FILE]),
]

/** Each way of the driver, ours and kublk's: for `bench/run --modes`. */
export const modeContestants: Contestant[] = modes.flatMap(({ name, ours: options, kublk, nullOnly }) => {
  const everybody = (
    target: string,
    group: Contestant['group'],
    kind: string,
    what: string,
    tool: string,
    words: string[],
  ): Contestant[] => [
    ...Object.values(schedulings).map(({ suffix, options: more }) =>
      ours(`${target}, ${name}${suffix}`, group, kind, what, { ...options, ...more }),
    ),
    ...['', AGAIN].map((suffix) => ublkTool(`kublk ${tool}, ${name}${suffix}`, group, 'kublk', ['-t', tool, ...kublk, ...SHAPE, ...words])),
  ]
  const onNull = everybody('null', 'null', 'null', SIZE, 'null', [])
  // kublk opens its file past the page cache.
  return nullOnly ? onNull : [...onNull, ...everybody('file', 'file', 'file-direct', FILE, 'loop', [FILE])]
})

/** What `ublk add` leaves behind: the servers that are watched while nobody uses their devices. */
export const leftBehind: Array<Pick<Contestant, 'name' | 'start'>> = [
  added('mem', ['mem', '--size', SIZE]),
  ...['sync', 'async'].map((mode) =>
    added(`JS worker, ${mode}`, ['bench/backends/memory.ts', '--set', `size=${SIZE}`, '--set', `mode=${mode}`]),
  ),
]

/** A file of its own for each contestant that needs one, full of zeroes: `fill` overwrites them all. */
async function makeFile(name: string): Promise<string> {
  const path = `${FILES}/${name.replaceAll(/[ ,]+/g, '-')}`
  await mkdir(FILES, { recursive: true })
  await writeFile(path, Buffer.alloc(MEBIBYTES << 20))
  return path
}

/** Our library, in a process of its own: see bench/serve.ts. */
function ours(name: string, group: Contestant['group'], kind: string, what: string, options: Partial<DeviceOptions> = {}): Contestant {
  const program = fileURLToPath(new URL('./serve.ts', import.meta.url))
  return {
    name,
    group,
    missing: () => null,
    async start() {
      const server = spawn(process.execPath, [program, kind, what === FILE ? await makeFile(name) : what, JSON.stringify(options)], {
        stdio: ['pipe', 'pipe', 'inherit'],
      })
      const lines = createInterface({ input: server.stdout })
      const path = await nextLine(name, server, lines)
      return {
        path,
        pids: [server.pid as number],
        async enters() {
          server.stdin.write('counters\n')
          return (JSON.parse(await nextLine(name, server, lines)) as { enters: number }).enters
        },
        async stop() {
          server.stdin.end()
          await ended(server)
        },
      }
    },
  }
}

/** `null` by the Rust core alone: crates/ublk/examples/null_queue.rs. */
function nullQueue(name: string, mode: 'loop' | 'tasks'): Contestant {
  const program = fileURLToPath(new URL('../target/release/examples/null_queue', import.meta.url))
  return {
    name,
    group: 'null',
    missing: () => missingFile(program),
    async start() {
      const server = spawn(program, [mode, String(MEBIBYTES << 20)], { stdio: ['pipe', 'pipe', 'inherit'] })
      const path = await nextLine(name, server, createInterface({ input: server.stdout }))
      return {
        path,
        pids: [server.pid as number],
        enters: async () => null,
        async stop() {
          server.stdin.end()
          await ended(server)
        },
      }
    },
  }
}

/** Our program, and the process that it leaves to serve. */
function added(name: string, parameters: string[]): Pick<Contestant, 'name' | 'start'> {
  const ublk = async (...words: string[]): Promise<string> => {
    const { stdout } = await run(process.execPath, [fileURLToPath(new URL('../cli/bin/run.js', import.meta.url)), ...words])
    return stdout.trim()
  }
  return {
    name,
    async start() {
      const path = await ublk('add', ...parameters)
      const pids = openersOf(path.replace('ublkb', 'ublkc'))
      return { path, pids, enters: async () => null, stop: async () => void (await ublk('del', path)) }
    },
  }
}

async function nextLine(name: string, server: ChildProcess, lines: Interface): Promise<string> {
  // Takes away the listeners of whoever lost the race.
  const race = new AbortController()
  const { signal } = race
  const died = once(server, 'exit', { signal }).then(([status]) => {
    throw new Error(`the server of "${name}" ended with ${status}`)
  })
  died.catch(() => {})
  try {
    const [line] = (await Promise.race([once(lines, 'line', { signal }), died])) as [string]
    return line
  } finally {
    race.abort()
  }
}

async function ended(server: ChildProcess): Promise<void> {
  if (server.exitCode === null && server.signalCode === null) await once(server, 'exit')
}

/** kublk and rublk: `TOOL add …` leaves a server in the background, `TOOL del -n ID` removes it. */
function ublkTool(name: string, group: Contestant['group'], tool: string, options: string[]): Contestant {
  const program = `${PEERS}/${tool}`
  return {
    name,
    group,
    missing: () => missingFile(program),
    async start() {
      const output = await launch(program, ['add', ...(await withFile(name, options))])
      const [, id] = /^dev id:? (\d+)/m.exec(output) ?? []
      if (id === undefined) throw new Error(`${tool} add printed no device id: ${output}`)
      return {
        path: `/dev/ublkb${id}`,
        pids: openersOf(`/dev/ublkc${id}`),
        enters: async () => null,
        stop: async () => void (await run(program, ['del', '-n', id])),
      }
    },
  }
}

/**
 * Runs a program that leaves a server behind, and gives what it printed. Into a file: the server keeps its standard output open, so a pipe
 * would have no end.
 */
async function launch(program: string, parameters: string[]): Promise<string> {
  const log = openSync(`${tmpdir()}/bench-launch.log`, 'w+')
  try {
    const [status] = await once(spawn(program, parameters, { stdio: ['ignore', log, log] }), 'exit')
    const output = readFileSync(`${tmpdir()}/bench-launch.log`, 'utf8')
    if (status !== 0) throw new Error(`${program} ${parameters.join(' ')} ended with ${status}: ${output}`)
    return output
  } finally {
    closeSync(log)
  }
}

async function withFile(name: string, options: string[]): Promise<string[]> {
  return options.includes(FILE) ? [...options.filter((option) => option !== FILE), await makeFile(name)] : options
}

/** go-ublk's own example, in the foreground; it removes its device on SIGINT. */
function goUblk(): Contestant {
  const program = `${PEERS}/ublk-mem`
  return {
    name: 'go-ublk mem',
    group: 'memory',
    missing: () => missingFile(program),
    async start() {
      const server = spawn(program, [`--size=${MEBIBYTES}M`], { stdio: ['ignore', 'pipe', 'inherit'] })
      const lines = createInterface({ input: server.stdout })
      let path: string | undefined
      while (path === undefined) path = /\/dev\/ublkb\d+/.exec(await nextLine('go-ublk mem', server, lines))?.[0]
      return {
        path,
        pids: [server.pid as number],
        enters: async () => null,
        async stop() {
          server.kill('SIGINT')
          await ended(server)
        },
      }
    },
  }
}

/** The kernel's loop driver on a file in a tmpfs. */
function loop(name: string, directIo: 'on' | 'off'): Contestant {
  return {
    name,
    group: 'memory',
    missing: () => null,
    async start() {
      const { stdout } = await run('losetup', ['--find', '--show', `--direct-io=${directIo}`, await makeFile(name)])
      const path = stdout.trim()
      return { path, pids: [], enters: async () => null, stop: async () => void (await run('losetup', ['--detach', path])) }
    },
  }
}

/** A driver that makes its device when it is loaded. */
function kernelModule(name: string, group: Contestant['group'], parameters: string[], path: string): Contestant {
  return {
    name,
    group,
    missing: () => null,
    async start() {
      await run('modprobe', [name, ...parameters])
      return { path, pids: [], enters: async () => null, stop: async () => void (await run('modprobe', ['--remove', name])) }
    },
  }
}

function missingFile(path: string): string | null {
  return existsSync(path) ? null : `${path} is not there (bench/run or bench/peers brings it)`
}
