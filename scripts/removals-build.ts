/**
 * Builds the program of a test from a private copy of the sources in which one piece of text is replaced.
 *
 * Everything is in target/removals: the copy, whose files keep their times as long as they stay the same; cargo's directory, so that one edit
 * builds one crate and its test anew; and the programs, each under a name of its own.
 */
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'

const root = path.resolve(import.meta.dirname, '..')
export const DIRECTORY = 'target/removals'
const sources = path.join(root, DIRECTORY, 'source')
const programs = path.join(DIRECTORY, 'programs')

export interface Edit {
  file: string
  text: string
  by: string
  also?: { text: string; by: string }
}

/** Where a test is and how it is run. */
export interface TestProgram {
  /** Short, and the same for tests of one program. */
  name: string
  /** For cargo. */
  build: string[]
  /** Name of the target in cargo's answer. */
  target: string
  /** An addon, for tests in TypeScript; else the test itself. */
  isAddon: boolean
  /** Needs no driver. */
  isOfHost: boolean
  file: string
  title: string
}

export function programOf(test: string): TestProgram {
  const [, file = '', title = ''] = /^(\S+?): (.+)$/.exec(test) ?? []
  const [, crate = '', place = '', rest = ''] = /^crates\/([^/]+)\/(src|tests)\/(.+)\.rs$/.exec(file) ?? []
  const name = rest.split('/')[0] as string
  const common = { isAddon: false, isOfHost: crate === 'ublk-uapi', file, title }
  if (crate === '') return { ...common, name: 'addon', build: ['build', '-p', 'ublk-node'], target: 'ublk_node', isAddon: true }
  if (place === 'src') return { ...common, name: `${crate}-lib`, build: ['test', '-p', crate, '--lib', '--no-run'], target: crate }
  return { ...common, name: `${crate}-${name}`, build: ['test', '-p', crate, '--test', name, '--no-run'], target: name }
}

/** Brings the copy up to date. Of what is outside of the crates a test of the header calls vm/build. */
export function copySources(): void {
  for (const directory of [sources, path.join(root, programs)]) mkdirSync(directory, { recursive: true })
  for (const name of ['Cargo.toml', 'Cargo.lock', 'crates']) copyIfChanged(name)
  if (!existsSync(path.join(sources, 'vm'))) symlinkSync(path.join(root, 'vm'), path.join(sources, 'vm'))
}

function copyIfChanged(name: string): void {
  const [from, to] = [path.join(root, name), path.join(sources, name)]
  if (!statSync(from).isDirectory()) {
    writeIfChanged(to, readFileSync(from))
    return
  }
  mkdirSync(to, { recursive: true })
  const here = readdirSync(from)
  for (const old of readdirSync(to)) if (!here.includes(old)) rmSync(path.join(to, old), { recursive: true })
  for (const entry of here) copyIfChanged(path.join(name, entry))
}

function writeIfChanged(file: string, content: Buffer): void {
  if (!existsSync(file) || !readFileSync(file).equals(content)) writeFileSync(file, content)
}

/**
 * Builds a program with an edit, or without, under its key. Its path from the checkout's root.
 * @throws Error when it does not compile: then the edit proves nothing
 */
export function build(program: TestProgram, key: string, edit?: Edit): string {
  const built = path.join(programs, `${program.name}.${key}${program.isAddon ? '.node' : ''}`)
  const edited = edit === undefined ? undefined : path.join(sources, edit.file)
  const original = edited === undefined ? '' : readFileSync(edited, 'utf8')
  if (edit !== undefined && edited !== undefined) writeFileSync(edited, apply(edit, original))
  try {
    copyFileSync(cargo(program), path.join(root, built))
  } finally {
    if (edited !== undefined) writeFileSync(edited, original)
  }
  return built
}

function apply({ text, by, also }: Edit, original: string): string {
  const once = original.replace(text, () => by)
  return also === undefined ? once : once.replace(also.text, () => also.by)
}

/** Without what only a debugger needs, a program takes a tenth of the place. */
const SMALL = { CARGO_PROFILE_DEV_DEBUG: '0' }
/** As the addon that is published: a debug build's own checks are not the test's. */
const UNCHECKED = { CARGO_PROFILE_DEV_DEBUG_ASSERTIONS: 'false', CARGO_PROFILE_DEV_OVERFLOW_CHECKS: 'false' }

/** The file that cargo built. */
function cargo({ build, target, isAddon }: TestProgram): string {
  const { stdout, stderr, status } = spawnSync('cargo', [...build, '--message-format=json', '--target-dir', '../cargo'], {
    cwd: sources,
    encoding: 'utf8',
    env: { ...process.env, ...SMALL, ...(isAddon ? UNCHECKED : {}) },
    maxBuffer: 64 << 20,
  })
  const messages = stdout.split('\n').filter((line) => line.startsWith('{'))
  const parsed = messages.map((line) => JSON.parse(line) as CargoMessage)
  if (status !== 0) throw new Error(parsed.find(({ message }) => message?.level === 'error')?.message?.rendered ?? stderr)
  const artifact = parsed.findLast(({ reason, target: is }) => reason === 'compiler-artifact' && is?.name === target)
  const file = artifact?.executable ?? artifact?.filenames?.find((name) => name.endsWith('.so'))
  if (file === undefined || file === null) throw new Error(`cargo ${build.join(' ')} built no ${target}`)
  return file
}

interface CargoMessage {
  reason: string
  target?: { name: string }
  executable?: string | null
  filenames?: string[]
  message?: { level: string; rendered: string }
}
