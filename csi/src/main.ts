/**
 * The program: reads its flags, serves until a signal, and ends.
 */
import { type Logger, pino } from 'pino'
import { type Config, HELP, readConfig, UsageError } from './config.ts'
import { CsiError } from './errors.ts'
import { VERSION } from './identity/get-plugin-info.ts'
import { makePlugin } from './make-plugin.ts'
import { Metrics, serveMetrics } from './metrics.ts'
import { servePlugin } from './server.ts'
import { runDaemon } from './ublk/daemon.ts'

const EXIT = { failed: 1, usage: 2 }

export async function main(argv: string[] = process.argv.slice(2)): Promise<void> {
  try {
    const config = readConfig(argv)
    if (config === 'help') process.stdout.write(`${HELP}\n`)
    else if (config === 'version') process.stdout.write(`ublk-csi ${VERSION}\n`)
    else await run(config)
  } catch (error) {
    const isExpected = error instanceof UsageError || error instanceof CsiError
    process.stderr.write(`ublk-csi: ${isExpected ? error.message : ((error as Error).stack ?? error)}\n`)
    process.exitCode = error instanceof UsageError ? EXIT.usage : EXIT.failed
    // A provider may hold connections that would keep the process.
    process.exit()
  }
}

async function run(config: Config): Promise<void> {
  const log = pino({ level: config.logLevel, base: { mode: config.mode, provider: config.provider } })
  if (config.mode === 'daemon') return runDaemon(config, log)
  await runPlugin(config, log)
}

async function runPlugin(config: Config, log: Logger): Promise<void> {
  const metrics = new Metrics()
  const stopped = stopSignal()
  const plugin = await makePlugin(config, log)
  const server = await servePlugin(plugin, config.endpoint, metrics, log)
  const exporter = config.metrics === null ? null : await serveMetrics(metrics, config.metrics.host, config.metrics.port)
  const signal = await stopped
  log.info({ signal }, 'ending')
  await server.close()
  exporter?.close()
  await plugin.controller?.provider.close()
  log.info('ended')
}

function stopSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, resolve)
  })
}
