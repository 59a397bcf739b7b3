/**
 * Puts a plugin together as its configuration says.
 */
import type { Logger } from 'pino'
import { type Config, UsageError } from './config.ts'
import { topologyKey } from './names.ts'
import { Mounts } from './node/mounts.ts'
import { NvmeAttacher } from './node/nvme.ts'
import { Tools } from './node/tools.ts'
import type { NodeTopology, Plugin } from './plugin.ts'
import type { Attacher, VolumeProvider } from './provider.ts'
import { hostNqnOf } from './rds/names.ts'
import { UblkAttacher } from './ublk/attacher.ts'
import { DaemonClient } from './ublk/client.ts'
import { UblkProvider } from './ublk/provider.ts'

interface ProviderParts {
  makeProvider(): Promise<VolumeProvider>
  makeAttacher(): Attacher
  /** Programs that the attacher needs. */
  tools: string[]
  topology: NodeTopology
  expandsInUse: Plugin['expandsInUse']
}

export async function makePlugin(config: Config, log: Logger): Promise<Plugin> {
  const { makeProvider, makeAttacher, tools, topology, expandsInUse } =
    config.provider === 'ublk' ? ublkParts(config) : rdsParts(config, log)
  const { maxVolumes } = config
  // One process for all is one machine; elsewhere the caller knows the nodes, and this controller does not.
  const onlyNode = config.mode === 'all' ? config.nodeId : (topology?.value ?? null)
  const isController = config.mode === 'controller' || config.mode === 'all'
  const isNode = config.mode === 'node' || config.mode === 'all'
  return {
    provider: config.provider,
    topology,
    expandsInUse,
    controller: isController ? { provider: await makeProvider(), maxVolumes, onlyNode, topology } : null,
    node: isNode
      ? { nodeId: config.nodeId, maxVolumes, attacher: makeAttacher(), mounts: new Mounts(), tools: new Tools(tools), topology }
      : null,
  }
}

/** Volumes are one node's: its controller runs there, too. */
function ublkParts({ nodeId, socket }: Config): ProviderParts {
  if (nodeId === '') throw new UsageError('--node-id is missing: volumes of the provider ublk are on one node')
  const daemon = new DaemonClient(socket)
  return {
    makeProvider: async () => new UblkProvider(daemon),
    makeAttacher: () => new UblkAttacher(daemon, nodeId),
    tools: [],
    topology: { key: topologyKey('ublk'), value: nodeId },
    expandsInUse: async (signal) => (await daemon.ask('ping', {}, signal)).resizesInUse,
  }
}

/** Any node can attach any volume: topology has nothing to say. */
function rdsParts({ nodeId, rds, ctrlLossSeconds }: Config, log: Logger): ProviderParts {
  return {
    // Loaded where it is used: SSH costs time and memory that a node of the other provider need not spend.
    makeProvider: async () => new (await import('./rds/provider.ts')).RdsProvider(rds, { log }),
    makeAttacher: () => new NvmeAttacher({ hostNqn: hostNqnOf(nodeId), ctrlLossSeconds }),
    tools: ['nvme'],
    topology: null,
    expandsInUse: async () => true,
  }
}
