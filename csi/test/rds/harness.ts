/** A test router and a provider that talks to it over a real SSH connection. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { volumeId } from '../../src/ids.ts'
import type { VolumeWish } from '../../src/provider.ts'
import type { RdsConfig } from '../../src/rds/config.ts'
import { RdsProvider } from '../../src/rds/provider.ts'
import { RETRY_DELAYS_MS } from '../../src/rds/retry.ts'
import { NoExporter } from '../routeros/exporter.ts'
import { keyIn } from '../routeros/keys.ts'
import { type RouterOptions, TestRouter } from '../routeros/server.ts'

export interface Lab {
  router: TestRouter
  exporter: NoExporter
  config: RdsConfig
  provider: RdsProvider
  directory: string
  /** What the first fields of warnings were, of every provider. */
  warnings: object[]
  /** Another provider for the same router: as after a restart, or a second replica. */
  another(change?: Partial<RdsConfig>): RdsProvider
}

export const GIB = 2n ** 30n
/** The pauses are as many as in earnest, and short. */
const DELAYS_MS = RETRY_DELAYS_MS.map((delayMs) => delayMs / 100)

export async function lab(t: ExecutionContext, options: Partial<RouterOptions> = {}, change: Partial<RdsConfig> = {}): Promise<Lab> {
  const directory = mkdtempSync(join(tmpdir(), 'ublk-csi-rds-'))
  const host = keyIn(directory, 'host')
  const user = keyIn(directory, 'id')
  const exporter = new NoExporter()
  const router = new TestRouter({ directory, exporter, hostKey: readFileSync(host.file), authorizedKey: user.publicKey, ...options })
  await router.start()
  const config: RdsConfig = {
    address: '127.0.0.1',
    port: router.port,
    user: 'admin',
    privateKeyFile: user.file,
    hostKey: host.publicKey.trim(),
    basePath: '/raid10/csi',
    nvmeAddress: '10.0.0.1',
    // A test is not about how busy this machine is.
    commandTimeoutMs: 100_000,
    ...change,
  }
  const providers: RdsProvider[] = []
  const warnings: object[] = []
  const log = { warn: (fields: object): number => warnings.push(fields) }
  const another = (more: Partial<RdsConfig> = {}): RdsProvider => {
    const made = new RdsProvider({ ...config, ...more }, { retryDelaysMs: DELAYS_MS, log })
    providers.push(made)
    return made
  }
  t.teardown(async () => {
    await Promise.all(providers.map((provider) => provider.close()))
    await router.stop()
    rmSync(directory, { recursive: true, force: true })
  })
  return { router, exporter, config, provider: another(), directory, warnings, another }
}

export const soon = (milliseconds = 110_000): AbortSignal => AbortSignal.timeout(milliseconds)

export const wishOf = (name: string, change: Partial<VolumeWish> = {}): VolumeWish => ({
  id: volumeId(name),
  bytes: GIB,
  parameters: {},
  ...change,
})
