/**
 * The code of README.md and docs/backends.md, run as a reader would: blocks become files named by their first line, shell blocks
 * go to a shell that has `ublk`, and `sudo`, which the VM does not need.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { folder, serve, sh, shell } from './support.ts'

const ROOT = join(import.meta.dirname, '../..')

/** A dozen processes of Node.js, on an emulated machine that may have others beside it. */
const TOUR_LIMIT_MS = 300_000

function blocks(file: string, language: string): string[] {
  const text = readFileSync(join(ROOT, file), 'utf8')
  return [...text.matchAll(/^```(\w+)\n(.*?)^```$/gms)].filter(([, name]) => name === language).map(([, , code]) => code as string)
}

const programs = blocks('README.md', 'ts')
const commands = blocks('README.md', 'sh')
const modules = blocks('docs/backends.md', 'ts')

/** A folder like a user's: a README block or two, the package installed, the examples beside it. */
function project(t: ExecutionContext, files: string[]): { cwd: string; env: NodeJS.ProcessEnv } {
  const cwd = folder(t)
  mkdirSync(join(cwd, 'node_modules'))
  symlinkSync(ROOT, join(cwd, 'node_modules/ublk'))
  symlinkSync(join(ROOT, 'examples'), join(cwd, 'examples'))
  for (const code of files) writeFileSync(join(cwd, nameOf(code)), code)
  const bin = join(cwd, 'bin')
  mkdirSync(bin)
  writeFileSync(join(bin, 'sudo'), '#!/bin/sh\nexec "$@"\n', { mode: 0o755 })
  writeFileSync(join(bin, 'ublk'), `#!/bin/sh\nexec node ${join(ROOT, 'cli/bin/run.js')} "$@"\n`, { mode: 0o755 })
  return { cwd, env: { ...process.env, PATH: `${bin}:${process.env.PATH}` } }
}

const nameOf = (code: string): string => /^\/\/ (\S+\.ts)/.exec(code)?.[1] as string

const withName = (code: string[], name: string): string => code.find((block) => nameOf(block) === name) as string
const withText = (text: string): string => commands.find((block) => block.includes(text)) as string

test.serial('README: every block is run here, or is one of the three that have tests of their own', (t) => {
  t.deepEqual(programs.map(nameOf), ['disk.ts', 'three.ts'])
  t.deepEqual(modules.map(nameOf), ['module.ts', 'shared.ts'])
  const elsewhere = ['make demo\n', 'npm i ublk\n', 'make test\n']
  t.deepEqual(
    commands.filter((block) => !elsewhere.includes(block)).map((block) => block.split('\n')[0]?.split('  ')[0]),
    ['sudo modprobe ublk_drv', 'sudo mkfs.ext4 -q /dev/ublkb0', 'ublk doctor'],
  )
})

test.serial('README: the disk takes a file system, and Ctrl-C removes it', async (t) => {
  const { cwd, env } = project(t, [withName(programs, 'disk.ts')])
  const start = withText('node disk.ts').trimEnd().split('\n')
  t.is((await shell(start[0] as string, { cwd, env })).status, 0)
  // The same command, without a shell in between that would keep the signal.
  const [, ...words] = start[1]?.split(' ') ?? []
  const server = spawn(words[0] as string, words.slice(1), { cwd, env, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => server.kill('SIGKILL'))
  const ended = new Promise<NodeJS.Signals | null>((resolve) => server.once('exit', (_, signal) => resolve(signal)))
  const [said] = (await server.stdout.setEncoding('utf8').take(1).toArray()) as string[]
  const path = /^(\/dev\/ublkb\d+) is live; Ctrl-C removes it\n$/.exec(said ?? '')?.[1]
  t.truthy(path, said)

  const use = await shell(`set -eu\n${withText('sudo mount').replaceAll('/dev/ublkb0', path as string)}`, { cwd, env })
  t.deepEqual(use, { status: 0, stdout: 'hello\n', stderr: use.stderr })
  server.kill('SIGINT')
  t.is(await ended, 'SIGINT')
  t.false(existsSync(path as string))
})

test.serial('README: three places for the bytes', async (t) => {
  const { cwd, env } = project(t, [withName(programs, 'three.ts')])
  const { status, stdout, stderr } = await shell('node three.ts', { cwd, env })
  t.is(status, 0, stderr)
  t.regex(stdout, /^\/dev\/ublkb\d+ \/dev\/ublkb\d+ \/dev\/ublkb\d+ \d+ reads, half of them within [\d.]+ µs\n$/)
})

test.serial('README: the tour of the command line', async (t) => {
  t.timeout(TOUR_LIMIT_MS)
  const { cwd, env } = project(t, [])
  t.teardown(() => shell('for id in 10 11 12; do ublk del $id; done', { cwd, env }))
  const { status, stdout, stderr } = await shell(`set -eu\n${withText('ublk doctor')}`, { cwd, env })
  t.is(status, 0, `${stdout}${stderr}`)
  for (const id of [10, 11, 12]) {
    t.regex(stdout, new RegExp(`^/dev/ublkb${id}$`, 'm'))
    t.false(existsSync(`/dev/ublkb${id}`))
  }
  t.regex(stdout, /^10 +\/dev\/ublkb10 +live +1GiB .*mem$/m)
  t.regex(stdout, /^12 +\/dev\/ublkb12 +live +64MiB .*\/examples\/memory\.ts$/m)
  t.regex(stdout, /P50 +P99 +P999/)
  t.regex(stdout, /Pass 5: Checking group summary information/)
})

test.serial('docs/backends.md: the modules can be served', async (t) => {
  const { cwd } = project(t, modules)
  const first = await serve(t, { backend: join(cwd, 'module.ts'), backendOptions: { message: 'hello' } })
  t.is(await sh(`head -c 6 ${first.path}`), 'hello\n')

  const shared = await serve(t, {
    backend: join(cwd, 'shared.ts'),
    backendOptions: { memory: new SharedArrayBuffer(2 ** 26) },
    queues: 2,
  })
  await sh(`mkfs.ext4 -q ${shared.path} && e2fsck -fn ${shared.path}`)
  rmSync(join(cwd, 'shared.ts'))
})
