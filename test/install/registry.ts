/**
 * A registry of our own on loopback, that knows nothing but what is put into it: no package of the test comes from anywhere else.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as delay } from 'node:timers/promises'

const ROOT = path.resolve(import.meta.dirname, '../..')
const START_LIMIT_MS = 60_000

interface Manifest {
  name: string
  version: string
  dependencies?: Record<string, string>
}

export class Registry {
  readonly url: string
  /** npm with this environment talks to this registry only, and keeps nothing for others. */
  readonly env: NodeJS.ProcessEnv
  readonly #server: ChildProcess

  private constructor(url: string, env: NodeJS.ProcessEnv, server: ChildProcess) {
    this.url = url
    this.env = env
    this.#server = server
  }

  /** Starts it; all that it keeps is below `directory`. */
  static async start(directory: string): Promise<Registry> {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}/`
    mkdirSync(directory, { recursive: true })
    const config = path.join(directory, 'config.yaml')
    writeFileSync(
      config,
      `storage: ${directory}/storage
auth: { htpasswd: { file: ${directory}/htpasswd, max_users: -1 } }
packages: { '**': { access: $all, publish: $all } }
max_body_size: 200mb
web: { enable: false }
log: { type: file, path: ${directory}/log, level: warn }
`,
    )
    const npmrc = path.join(directory, 'npmrc')
    // npm does not publish without a token; this registry does not read it.
    writeFileSync(
      npmrc,
      `registry=${url}\n//127.0.0.1:${port}/:_authToken=anybody\naudit=false\nfund=false\nupdate-notifier=false\nloglevel=error\n`,
    )
    const env = { ...withoutNpm(process.env), npm_config_userconfig: npmrc, npm_config_cache: path.join(directory, 'cache') }
    const program = path.join(ROOT, 'node_modules/verdaccio/bin/verdaccio')
    const server = spawn(process.execPath, [program, '--config', config, '--listen', `127.0.0.1:${port}`], { stdio: 'ignore' })
    const registry = new Registry(url, env, server)
    await registry.#answers()
    return registry
  }

  npm(args: string[], cwd: string): string {
    return execFileSync('npm', args, { cwd, env: this.env, encoding: 'utf8', timeout: 120_000 })
  }

  /** Puts an installed package and all it depends on into the registry, from node_modules. */
  async addInstalled(name: string, directory: string): Promise<void> {
    const packages = [...closure(name, ROOT).values()]
    mkdirSync(directory, { recursive: true })
    const args = ['pack', '--ignore-scripts', '--json', '--loglevel=error', '--pack-destination', directory, ...packages]
    const tarballs = JSON.parse(this.npm(args, ROOT)) as Array<{ filename: string }>
    for (const [index, { filename }] of tarballs.entries()) {
      await this.#put(readManifest(packages[index] as string), readFileSync(path.join(directory, filename)))
    }
  }

  async stop(): Promise<void> {
    if (this.#server.exitCode === null && this.#server.kill()) await once(this.#server, 'exit')
  }

  /** What `npm publish` sends, without its half second of start-up for each of many packages. */
  async #put(manifest: Manifest, tarball: Buffer): Promise<void> {
    const { name, version } = manifest
    const file = `${name}-${version}.tgz`
    const dist = {
      tarball: `${this.url}${name}/-/${file}`,
      integrity: `sha512-${createHash('sha512').update(tarball).digest('base64')}`,
      shasum: createHash('sha1').update(tarball).digest('hex'),
    }
    const body = {
      _id: name,
      name,
      'dist-tags': { latest: version },
      versions: { [version]: { ...manifest, _id: `${name}@${version}`, dist } },
      _attachments: { [file]: { content_type: 'application/octet-stream', data: tarball.toString('base64'), length: tarball.length } },
    }
    const headers = { 'content-type': 'application/json' }
    const response = await fetch(`${this.url}${encodeURIComponent(name)}`, { method: 'PUT', headers, body: JSON.stringify(body) })
    if (!response.ok) throw new Error(`the registry does not take ${name}@${version}: ${response.status} ${await response.text()}`)
  }

  async #answers(): Promise<void> {
    const deadline = performance.now() + START_LIMIT_MS
    while (
      !(await fetch(`${this.url}-/ping`).then(
        ({ ok }) => ok,
        () => false,
      ))
    ) {
      if (this.#server.exitCode !== null) throw new Error(`verdaccio ended with ${this.#server.exitCode}`)
      if (performance.now() > deadline) throw new Error(`verdaccio does not answer after ${START_LIMIT_MS} ms`)
      await delay(100)
    }
  }
}

/** Directories of a package and of all that it needs, by name and version, as Node.js finds them from `from`. */
function closure(name: string, from: string, found: Map<string, string> = new Map()): Map<string, string> {
  const directory = resolvePackage(name, from)
  const { version, dependencies = {} } = readManifest(directory)
  if (found.has(`${name}@${version}`)) return found
  found.set(`${name}@${version}`, directory)
  for (const dependency of Object.keys(dependencies)) closure(dependency, directory, found)
  return found
}

function resolvePackage(name: string, from: string): string {
  const candidate = path.join(from, 'node_modules', name)
  if (existsSync(path.join(candidate, 'package.json'))) return candidate
  if (from === path.dirname(from)) throw new Error(`${name} is not installed`)
  return resolvePackage(name, path.dirname(from))
}

function readManifest(directory: string): Manifest {
  return JSON.parse(readFileSync(path.join(directory, 'package.json'), 'utf8')) as Manifest
}

/** Without what an npm that started us has put there: its configuration is not ours. */
function withoutNpm(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !/^npm_|^NODE_ENV$/i.test(name)))
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  return port
}
