/**
 * What the program is told: flags, and a YAML file whose keys are the same names. Flags win. Secrets are never here: providers read
 * them from mounted files.
 */
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { parse } from 'yaml'

export const MODES = ['controller', 'node', 'all', 'daemon'] as const
export const PROVIDERS = ['rds', 'ublk'] as const

export interface Config {
  mode: (typeof MODES)[number]
  provider: (typeof PROVIDERS)[number]
  /** Path of the Unix socket; from `unix:///…`. */
  endpoint: string
  nodeId: string
  /** Volumes that the node takes at most; 0 for no limit. */
  maxVolumes: number
  /** For how long I/O waits for a storage server that is gone; -1: for ever. */
  ctrlLossSeconds: number
  /** Directory of the volumes' files, for the daemon of `ublk`. */
  pool: string
  /** The daemon's socket. */
  socket: string
  metrics: { host: string; port: number } | null
  logLevel: string
  /** Section `rds` of the file, as it is: the provider checks it. */
  rds: Record<string, unknown>
}

/** A mistake of whoever started the program: it ends with status 2 and this text. */
export class UsageError extends Error {}

export const HELP = `Usage: ublk-csi --mode controller|node|all --provider rds|ublk --endpoint unix:///PATH [OPTION…]
       ublk-csi --mode daemon --pool DIR [--socket PATH]

  --mode MODE           controller, node, all (both in one process), or daemon: the host's server of ublk volumes
  --provider PROVIDER   rds: disks of a RouterOS storage server over NVMe/TCP; ublk: files of this node through its daemon
  --endpoint URL        Unix socket to serve CSI at, such as unix:///csi/csi.sock
  --node-id NAME        name of this node; needed by node and all
  --max-volumes N       how many volumes the node takes at most (no limit)
  --ctrl-loss-tmo=N     rds: seconds for which I/O waits for a router that is gone (600); -1: for ever
  --pool DIR            where the daemon keeps volumes and snapshots
  --socket PATH         the daemon's socket (/run/ublk-csi/daemon.sock)
  --metrics HOST:PORT   serve Prometheus metrics at /metrics
  --log-level LEVEL     trace, debug, info (default), warn, error, fatal or silent
  --config FILE         YAML with the same names as keys, and a section "rds"; flags win
  --help, --version`

const FLAGS = {
  mode: { type: 'string' },
  provider: { type: 'string' },
  endpoint: { type: 'string' },
  'node-id': { type: 'string' },
  'max-volumes': { type: 'string' },
  'ctrl-loss-tmo': { type: 'string' },
  pool: { type: 'string' },
  socket: { type: 'string' },
  metrics: { type: 'string' },
  'log-level': { type: 'string' },
} as const
const OWN_FLAGS = { config: { type: 'string' }, help: { type: 'boolean', short: 'h' }, version: { type: 'boolean', short: 'V' } } as const
const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']
const DEFAULT_SOCKET = '/run/ublk-csi/daemon.sock'

/** Names of at most this many bytes fit a node id (CSI) and a label value (Kubernetes). */
const MAX_NODE_ID_BYTES = 63
const NODE_ID = /^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$/

export function readConfig(argv: string[]): Config | 'help' | 'version' {
  const flags = readFlags(argv)
  if (flags.help) return 'help'
  if (flags.version) return 'version'
  const file = flags.config === undefined ? {} : readFile(flags.config)
  const text = (name: keyof typeof FLAGS): string | undefined => flags[name] ?? file.texts?.[name]
  const mode = oneOf('mode', text('mode'), MODES)
  const isDaemon = mode === 'daemon'
  const pool = text('pool') ?? ''
  if (isDaemon && pool === '') throw new UsageError('--pool is missing: the directory where the daemon keeps its volumes')
  const nodeId = text('node-id') ?? ''
  if (mode === 'node' || mode === 'all') checkNodeId(nodeId)
  return {
    mode,
    provider: isDaemon ? 'ublk' : oneOf('provider', text('provider'), PROVIDERS),
    endpoint: isDaemon ? '' : endpointPath(text('endpoint')),
    nodeId,
    maxVolumes: wholeNumber('max-volumes', text('max-volumes') ?? '0'),
    ctrlLossSeconds: lossSeconds(text('ctrl-loss-tmo') ?? '600'),
    pool,
    socket: text('socket') ?? DEFAULT_SOCKET,
    metrics: metricsAddress(text('metrics')),
    logLevel: oneOf('log-level', text('log-level') ?? 'info', LOG_LEVELS),
    rds: file.rds ?? {},
  }
}

function readFlags(argv: string[]) {
  try {
    return parseArgs({ args: argv, options: { ...FLAGS, ...OWN_FLAGS }, strict: true }).values
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

function readFile(path: string): { texts?: Record<string, string>; rds?: Record<string, unknown> } {
  let content: unknown
  try {
    content = parse(readFileSync(path, 'utf8'))
  } catch (cause) {
    throw new UsageError(`--config ${path} cannot be read: ${(cause as Error).message}`)
  }
  if (!isMap(content)) throw new UsageError(`--config ${path} must be a map of names and values`)
  const { rds = {}, ...rest } = content
  if (!isMap(rds)) throw new UsageError(`${path}: "rds" must be a map`)
  for (const [name, value] of Object.entries(rest)) {
    if (!Object.hasOwn(FLAGS, name)) {
      throw new UsageError(`${path}: "${name}" is no setting; there are ${Object.keys(FLAGS).join(', ')} and rds`)
    }
    if (typeof value !== 'string' && typeof value !== 'number') throw new UsageError(`${path}: "${name}" must be text or a number`)
  }
  return { texts: Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, String(value)])), rds }
}

const isMap = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value)

function oneOf<const T extends string>(name: string, value: string | undefined, values: readonly T[]): T {
  if (value === undefined) throw new UsageError(`--${name} is missing; it is one of ${values.join(', ')}`)
  if (!(values as readonly string[]).includes(value)) throw new UsageError(`--${name} "${value}" is not one of ${values.join(', ')}`)
  return value as T
}

function endpointPath(text: string | undefined): string {
  const path = /^unix:(?:\/\/)?(\/.+)$/.exec(text ?? '')?.[1]
  if (path === undefined)
    throw new UsageError(`--endpoint ${text === undefined ? 'is missing' : `"${text}" is no Unix socket`}; give unix:///PATH`)
  // sun_path has 108 bytes, one of them the end.
  if (Buffer.byteLength(path) > 107) throw new UsageError(`--endpoint "${path}" is longer than the 107 bytes that a Unix socket can have`)
  return path
}

function checkNodeId(nodeId: string): void {
  if (nodeId === '') throw new UsageError('--node-id is missing: the name of this node, as Kubernetes knows it')
  if (Buffer.byteLength(nodeId) > MAX_NODE_ID_BYTES || !NODE_ID.test(nodeId)) {
    throw new UsageError(`--node-id "${nodeId}" must have letters, digits, ".", "_" and "-" only, at most ${MAX_NODE_ID_BYTES}`)
  }
}

function wholeNumber(name: string, text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw new UsageError(`--${name} "${text}" is not a whole number`)
  return Number(text)
}

function lossSeconds(text: string): number {
  if (!/^(-1|\d{1,6})$/.test(text)) throw new UsageError(`--ctrl-loss-tmo "${text}" is neither a number of seconds nor -1`)
  return Number(text)
}

function metricsAddress(text: string | undefined): Config['metrics'] {
  if (text === undefined) return null
  const [, host, port] = /^\[?([^\]]*?)\]?:(\d+)$/.exec(text) ?? []
  if (host === undefined || Number(port) > 65_535) throw new UsageError(`--metrics "${text}" is not HOST:PORT, such as 0.0.0.0:9809`)
  return { host: host === '' ? '0.0.0.0' : host, port: Number(port) }
}
