#!/usr/bin/env node
/**
 * The test router as a program: `main.ts --dir DIR [--listen HOST:PORT] [--version 7.24.1] [--pool-bytes N] [--no-exports]`.
 *
 * Makes what it lacks in DIR: host key, the user's key pair (`id`, `id.pub`), and `rds.yaml`, the part of a driver's configuration that fits
 * it. Prints one line when it listens. Exports through the kernel's nvmet where /sys/kernel/config/nvmet is there.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { NoExporter, NvmetExporter } from './exporter.ts'
import { keyIn } from './keys.ts'
import { TestRouter } from './server.ts'

const { values } = parseArgs({
  options: {
    dir: { type: 'string' },
    listen: { type: 'string', default: '127.0.0.1:2222' },
    version: { type: 'string', default: '7.24.1' },
    width: { type: 'string' },
    'pool-bytes': { type: 'string', default: String(2 ** 40) },
    'no-exports': { type: 'boolean', default: false },
  },
})
if (!values.dir) throw new TypeError('--dir DIR is missing: where the router keeps its disks')
const directory = resolve(values.dir)
mkdirSync(directory, { recursive: true, mode: 0o700 })
const [host, port] = [
  values.listen.slice(0, values.listen.lastIndexOf(':')),
  Number(values.listen.slice(values.listen.lastIndexOf(':') + 1)),
]
const hostKey = keyIn(directory, 'host')
const user = keyIn(directory, 'id')
const exports = NvmetExporter.available() && !values['no-exports']

const router = new TestRouter({
  directory,
  exporter: exports ? new NvmetExporter() : new NoExporter(),
  hostKey: readFileSync(hostKey.file),
  authorizedKey: user.publicKey,
  listen: { host, port },
  version: values.version,
  poolBytes: Number(values['pool-bytes']),
  ...(values.width !== undefined && { width: Number(values.width) }),
})
await router.start()

const configuration = join(directory, 'rds.yaml')
if (!existsSync(configuration)) {
  const lines = [
    `address: ${host}`,
    `port: ${router.port}`,
    'user: admin',
    `privateKeyFile: ${user.file}`,
    `hostKey: ${hostKey.publicKey.trim()}`,
  ]
  writeFileSync(configuration, `rds:\n${[...lines, 'basePath: /raid10/csi'].map((line) => `  ${line}\n`).join('')}`)
}
console.log(
  `RouterOS ${values.version} for tests listens on ${host}:${router.port}, exports ${exports ? 'through nvmet' : 'nothing'}; ${configuration}`,
)

for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void router.stop().then(() => process.exit(0)))
