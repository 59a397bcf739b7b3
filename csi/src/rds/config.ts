/** Where the router is and what the driver may use there: the part `rds` of the configuration file. */
import { readFileSync, statSync } from 'node:fs'
import ssh2 from 'ssh2'
import { failedPrecondition, invalidArgument } from '../errors.ts'
import { allowed } from './command.ts'

export interface RdsConfig {
  /** Host name or address of the router's SSH service. */
  readonly address: string
  /** 22 unless given. */
  readonly port?: number
  readonly user: string
  /** Mounted from a secret; only its owner may read it. */
  readonly privateKeyFile: string
  /** The router's host key: `SHA256:…` as ssh-keygen -l prints it, or the line `ssh-ed25519 AAAA…` itself. Nothing is trusted unpinned. */
  readonly hostKey: string
  /** Folder of the images, on a mounted disk: `/raid10/csi`. Its first part is the mount point of the pool. */
  readonly basePath: string
  /** Where nodes reach the exports; `address` unless given. */
  readonly nvmeAddress?: string
  /** 4420 unless given. */
  readonly nvmePort?: number
  /** `off` lets every host connect to every volume; by default one node at a time, where the router can tell hosts apart. */
  readonly fence?: 'allow-host-name' | 'off'
  /** Volumes may promise more than the pool has, where images are sparse: who writes more than there is gets errors. Off unless given. */
  readonly overcommit?: boolean
  /** Limit of one command; a copy of data may take as long as the call has. */
  readonly commandTimeoutMs?: number
}

const TEXTS = ['address', 'user', 'privateKeyFile', 'hostKey', 'basePath', 'nvmeAddress', 'fence'] as const
const NUMBERS = ['port', 'nvmePort', 'commandTimeoutMs'] as const
const BOOLEANS = ['overcommit'] as const
const TYPES = new Map<string, string>([
  ...TEXTS.map((key) => [key, 'string'] as const),
  ...NUMBERS.map((key) => [key, 'number'] as const),
  ...BOOLEANS.map((key) => [key, 'boolean'] as const),
])
const NEEDED = ['address', 'user', 'privateKeyFile', 'hostKey', 'basePath'] as const

/** Reads the section `rds` of a configuration. @throws {CsiError} INVALID_ARGUMENT naming the field */
export function checkedConfig(section: RdsConfig | Record<string, unknown>): RdsConfig {
  for (const [key, value] of Object.entries(section)) {
    const type = TYPES.get(key)
    if (type === undefined) throw invalidArgument(`rds.${key} is no setting; there are ${[...TYPES.keys()].join(', ')}`)
    if (typeof value !== type) throw invalidArgument(`rds.${key} must be a ${type}`)
  }
  const config = section as RdsConfig
  for (const key of NEEDED) if (!config[key]) throw invalidArgument(`rds.${key} is missing in the configuration`)
  if (!/^[a-z_][a-z0-9_.-]*$/i.test(config.user)) throw invalidArgument(`rds.user ${JSON.stringify(config.user)} is no name of a user`)
  if (!/^(SHA256:[A-Za-z0-9+/]{43}=?|(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/=]+.*)$/.test(config.hostKey)) {
    throw invalidArgument('rds.hostKey is neither SHA256:… nor a public key; ssh-keyscan ROUTER prints it')
  }
  for (const key of ['port', 'nvmePort'] as const) {
    const port = config[key] ?? 1
    if (!(Number.isInteger(port) && port > 0 && port < 65_536)) throw invalidArgument(`rds.${key} ${port} is no port`)
  }
  if (config.fence !== undefined && config.fence !== 'allow-host-name' && config.fence !== 'off') {
    throw invalidArgument(`rds.fence ${JSON.stringify(config.fence)} is neither allow-host-name nor off`)
  }
  allowed('file-path', config.basePath)
  return config
}

/** The private key, where nobody but the owner can read it. */
export function readPrivateKey(path: string): Buffer {
  try {
    const { mode } = statSync(path)
    if ((mode & 0o077) !== 0) {
      throw failedPrecondition(`${path} has mode 0${(mode & 0o777).toString(8)}, others may read the key; mount it with defaultMode: 0600`)
    }
    const text = readFileSync(path)
    const key = ssh2.utils.parseKey(text)
    if (key instanceof Error) throw failedPrecondition(`${path} holds no SSH key that can be used: ${key.message}`, { cause: key })
    return text
  } catch (cause) {
    if (cause instanceof Error && 'syscall' in cause) throw failedPrecondition(`the SSH key cannot be read: ${cause.message}`, { cause })
    throw cause
  }
}
