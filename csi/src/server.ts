/**
 * The gRPC server of the plugin on its Unix socket: starts, and ends within bounds.
 */
import { createServer, type Server as NetServer } from 'node:net'
import { duplexPair, pipeline } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { Server, ServerCredentials } from '@grpc/grpc-js'
import type { Logger } from 'pino'
import { CallLayer } from './calls.ts'
import { controllerService } from './controller/service.ts'
import { unavailable } from './errors.ts'
import { ControllerService, IdentityService, NodeService } from './generated/csi.ts'
import { AuthorityFilter } from './http2/authority-filter.ts'
import { getPluginCapabilities } from './identity/get-plugin-capabilities.ts'
import { getPluginInfo } from './identity/get-plugin-info.ts'
import { probe } from './identity/probe.ts'
import { Locks } from './locks.ts'
import type { Metrics } from './metrics.ts'
import { nodeService } from './node/service.ts'
import type { Plugin } from './plugin.ts'
import { claimSocketPath, listenPrivately } from './socket.ts'

/** Calls in flight have so long after a stop signal; then they are aborted, and have this long again to give up. */
const FINISH_LIMIT_MS = 10_000
const ABORT_LIMIT_MS = 3_000

export interface PluginServer {
  /** Takes no new calls, lets those in flight end, aborts what is left. Bounded. */
  close(): Promise<void>
}

export async function servePlugin(plugin: Plugin, endpoint: string, metrics: Metrics, log: Logger): Promise<PluginServer> {
  const ending = new AbortController()
  const layer = new CallLayer({ log, metrics, locks: new Locks(), ending: ending.signal })
  const server = new Server({ 'grpc.max_receive_message_length': 16 << 20, 'grpc.max_send_message_length': 64 << 20 })
  server.addService(IdentityService, {
    getPluginInfo: layer.unary('GetPluginInfo', () => getPluginInfo(plugin)),
    getPluginCapabilities: layer.unary('GetPluginCapabilities', (_request, signal) => getPluginCapabilities(plugin, signal)),
    probe: layer.unary('Probe', (_request, signal) => probe(plugin, signal)),
  })
  if (plugin.controller !== null) server.addService(ControllerService, controllerService(layer, plugin.controller))
  if (plugin.node !== null) server.addService(NodeService, nodeService(layer, plugin.node))

  const claim = await claimSocketPath(endpoint)
  const listener = await listen(server, endpoint)
  log.info({ endpoint, provider: plugin.provider }, 'serving')
  return {
    async close() {
      // With the last connection, and so the last answer is out.
      const disconnected = new Promise<void>((resolve) => listener.close(() => resolve()))
      server.tryShutdown(() => {})
      const finished = layer.running.ended()
      await Promise.race([finished, delay(FINISH_LIMIT_MS)])
      if (layer.running.count > 0) log.warn({ calls: layer.running.count }, 'calls in flight are aborted')
      ending.abort(unavailable('the driver is ending; the call can be made again'))
      await Promise.race([Promise.all([disconnected, finished]), delay(ABORT_LIMIT_MS)])
      server.forceShutdown()
      claim.release()
    },
  }
}

/** Connections reach gRPC through the filter of their authority. */
async function listen(server: Server, endpoint: string): Promise<NetServer> {
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
  const listener = createServer((socket) => {
    const [ours, theirs] = duplexPair()
    // An error on one way ends both; what was wrong is the client's to know.
    pipeline(socket, new AuthorityFilter(), ours, () => {})
    pipeline(ours, socket, () => {})
    injector.injectConnection(theirs)
  })
  await listenPrivately(listener, endpoint)
  return listener
}
