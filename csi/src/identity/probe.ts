import type { ProbeResponse } from '../generated/csi.ts'
import type { Plugin } from '../plugin.ts'

/** Asks what the plugin stands on: the storage server or the daemon, and on a node its programs. Fails with what is missing. */
export async function probe({ controller, node }: Plugin, signal: AbortSignal): Promise<ProbeResponse> {
  await controller?.provider.probe(signal)
  await node?.attacher.probe(signal)
  await node?.tools.probe(signal)
  return { ready: true }
}
