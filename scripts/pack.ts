/**
 * Packs what is published into target/packages, as npm would get it: `ublk`, one `ublk-linux-*` for each addon in native/, and `ublk-cli`.
 * `make build` goes first, which leaves the addon of this machine there. A release packs with --prebuilds: the addons of all machines, in
 * target/prebuilds; `make prebuilds` goes first, on the same commit. They are asked for and not taken because they are there: they may be
 * older than the code. Prints the path of each tarball. Options: --addons DIR and --out DIR instead of these directories.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'

const root = path.resolve(import.meta.dirname, '..')
const { values: options } = parseArgs({
  options: { prebuilds: { type: 'boolean' }, addons: { type: 'string' }, out: { type: 'string', default: 'target/packages' } },
})
if (options.prebuilds && options.addons !== undefined) throw new Error('give --prebuilds or --addons DIR, not both')
const outDirectory = path.resolve(root, options.out)
const stageDirectory = path.join(outDirectory, 'stage')

interface Manifest {
  version: string
  engines: unknown
  license: string
  author: string
  [field: string]: unknown
}
const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as Manifest

/** A folder with the package's own files, ready for `npm pack`. */
function stage(name: string, packageManifest: object, files: Array<[from: string, to: string]>): string {
  const directory = path.join(stageDirectory, name)
  mkdirSync(directory, { recursive: true })
  writeFileSync(path.join(directory, 'package.json'), `${JSON.stringify(packageManifest, null, 2)}\n`)
  copyFileSync(path.join(root, 'LICENSE'), path.join(directory, 'LICENSE'))
  for (const [from, to] of files) cpSync(path.resolve(root, from), path.join(directory, to), { recursive: true })
  return directory
}

function npmPack(...what: string[]): string {
  // What a package's own scripts print must not get into the answer.
  const flags = ['--json', '--loglevel=error', '--foreground-scripts=false', '--pack-destination', outDirectory]
  const answer = execFileSync('npm', ['pack', ...flags, ...what], { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
  const [packed] = JSON.parse(answer) as Array<{ filename: string }>
  if (packed === undefined) throw new Error(`npm pack ${what.join(' ')} made no tarball`)
  return path.join(outDirectory, packed.filename)
}

/** Addons by target, such as linux-x64-gnu, with their paths. */
function addons(): Map<string, string> {
  const directory = path.resolve(root, options.addons ?? (options.prebuilds ? 'target/prebuilds' : 'native'))
  const found = new Map<string, string>()
  for (const file of existsSync(directory) ? readdirSync(directory) : []) {
    const target = /^ublk\.(linux-\w+-\w+)\.node$/.exec(file)?.[1]
    if (target !== undefined) found.set(target, path.join(directory, file))
  }
  if (found.size === 0)
    throw new Error(`there is no addon in ${directory}; run \`make ${options.prebuilds ? 'prebuilds' : 'build'}\` first`)
  return found
}

function packAddon(target: string, file: string): string {
  const [os, cpu, libc] = target.split('-') as [string, string, string]
  const packageManifest = {
    name: `ublk-${target}`,
    version: manifest.version,
    description: `The native addon of the package ublk for ${os} ${cpu} ${libc}; do not depend on it yourself`,
    license: manifest.license,
    author: manifest.author,
    engines: manifest.engines,
    os: [os],
    cpu: [cpu],
    libc: [libc === 'gnu' ? 'glibc' : libc],
    main: path.basename(file),
    files: [path.basename(file)],
  }
  return npmPack(stage(`ublk-${target}`, packageManifest, [[file, path.basename(file)]]))
}

function packLibrary(targets: string[]): string {
  const { devDependencies, workspaces, scripts, overrides, ...published } = manifest
  const packageManifest = {
    ...published,
    optionalDependencies: Object.fromEntries(targets.map((target) => [`ublk-${target}`, manifest.version])),
  }
  const files: Array<[string, string]> = ['dist', 'README.md', 'CHANGELOG.md']
    .filter((file) => existsSync(path.join(root, file)))
    .map((file) => [file, file])
  return npmPack(stage('ublk', packageManifest, files))
}

rmSync(outDirectory, { recursive: true, force: true })
mkdirSync(stageDirectory, { recursive: true })
const built = addons()
for (const [target, file] of built) console.log(packAddon(target, file))
console.log(packLibrary([...built.keys()]))
console.log(npmPack('--workspace', 'cli'))
rmSync(stageDirectory, { recursive: true })
