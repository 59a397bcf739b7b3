/**
 * What a user gets by `npm i ublk ublk-cli` in an empty folder, from a registry to which the packages were published. Leaves the folder in
 * target/install/user, where test/install/run takes it from into the VM.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import test from 'ava'
import { Registry } from './registry.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const PROGRAMS = path.join(import.meta.dirname, 'programs')
const TARGETS = ['linux-x64-gnu', 'linux-x64-musl', 'linux-arm64-gnu', 'linux-arm64-musl']

// Outside the checkout, whose node_modules would lend what is missing.
const work = mkdtempSync(path.join(tmpdir(), 'ublk-install-'))
const user = path.join(work, 'user')
let registry: Registry

const installed = (...names: string[]): string => path.join(user, 'node_modules', ...names)
const readJson = (file: string) => JSON.parse(readFileSync(file, 'utf8'))

/** The addon of this machine, and its copies under the names of the others: those must not be installed anyway. */
function stageAddons(): { directory: string; own: string } {
  const [file = ''] = readdirSync(path.join(ROOT, 'native')).filter((name) => name.endsWith('.node'))
  const directory = path.join(work, 'addons')
  mkdirSync(directory)
  for (const target of TARGETS) copyFileSync(path.join(ROOT, 'native', file), path.join(directory, `ublk.${target}.node`))
  return { directory, own: /^ublk\.(.*)\.node$/.exec(file)?.[1] ?? '' }
}

let ownTarget = ''

test.before(async (t) => {
  t.timeout(180_000)
  const addons = stageAddons()
  ownTarget = addons.own
  registry = await Registry.start(path.join(work, 'registry'))
  await registry.addInstalled('@oclif/core', path.join(work, 'tarballs'))
  const packed = path.join(work, 'packed')
  const output = execFileSync(process.execPath, ['scripts/pack.ts', '--addons', addons.directory, '--out', packed], {
    cwd: ROOT,
    encoding: 'utf8',
  })
  const tarballs = output.trim().split('\n')
  t.is(tarballs.length, TARGETS.length + 2, output)
  for (const tarball of tarballs) registry.npm(['publish', tarball], work)
  mkdirSync(user)
  registry.npm(['init', '-y'], user)
  registry.npm(['install', '--engine-strict', 'ublk', 'ublk-cli'], user)
  cpSync(PROGRAMS, user, { recursive: true })
})

test.after.always(async () => {
  await registry?.stop()
  const kept = path.join(ROOT, 'target/install/user')
  rmSync(kept, { recursive: true, force: true })
  if (existsSync(installed('ublk'))) cpSync(user, kept, { recursive: true, verbatimSymlinks: true })
  rmSync(work, { recursive: true })
})

test('of the addons only the one for this machine is installed', (t) => {
  const packages = readdirSync(installed()).filter((name) => name.startsWith('ublk'))
  t.deepEqual(packages.sort(), ['ublk', 'ublk-cli', `ublk-${ownTarget}`].sort())
})

test('the library brings nothing but its addon', (t) => {
  const manifest = readJson(installed('ublk/package.json'))
  t.deepEqual(Object.keys(manifest.optionalDependencies).sort(), TARGETS.map((target) => `ublk-${target}`).sort())
  for (const field of ['dependencies', 'peerDependencies', 'scripts', 'overrides', 'workspaces']) t.false(field in manifest, field)
  const lock = readJson(path.join(user, 'package-lock.json')).packages
  t.true(Object.values(lock as Record<string, { hasInstallScript?: true }>).every(({ hasInstallScript }) => !hasInstallScript))
})

test('the whole tree is as the packages ask for it', (t) => {
  t.deepEqual(JSON.parse(registry.npm(['ls', '--all', '--json'], user)).problems, undefined)
})

test('the addon is the one that was built, and nothing is missing of what the packages promise', (t) => {
  t.true(
    readFileSync(installed(`ublk-${ownTarget}/ublk.${ownTarget}.node`)).equals(
      readFileSync(path.join(ROOT, `native/ublk.${ownTarget}.node`)),
    ),
  )
  const { exports } = readJson(installed('ublk/package.json'))
  for (const file of Object.values(exports['.'] as Record<string, string>)) t.true(existsSync(installed('ublk', file)), file)
  for (const name of readdirSync(path.join(ROOT, 'src'))) {
    for (const ending of ['.js', '.d.ts']) t.true(existsSync(installed('ublk/dist', name.replace(/\.ts$/, ending))), name)
  }
})

test('types resolve for a program that is checked strictly', (t) => {
  const check = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2023', '--lib', 'esnext', '--types', 'node']
  const types = ['--typeRoots', path.join(ROOT, 'node_modules/@types')]
  t.notThrows(() => execFileSync(path.join(ROOT, 'node_modules/.bin/tsc'), [...check, ...types, 'types.mts'], { cwd: user, stdio: 'pipe' }))
})

for (const major of ['22', '24', '26']) {
  test(`import and require give the same library on Node ${major}`, (t) => {
    const program = "import('ublk').then((ublk) => { if (ublk.createDevice !== require('ublk').createDevice) process.exit(1) })"
    const args = [major, '--throw-deprecation', '--input-type=commonjs', '--eval', program]
    t.notThrows(() => execFileSync(path.join(ROOT, 'scripts/node'), args, { cwd: user, stdio: 'pipe' }))
  })
}

test('npx runs the program', (t) => {
  const { version } = readJson(path.join(ROOT, 'cli/package.json'))
  t.true(execFileSync('npx', ['ublk', '--version'], { cwd: user, env: registry.env, encoding: 'utf8' }).includes(version))
})
