#!/usr/bin/env node
/**
 * One volume's life on this machine, as a cluster would ask for it: `try.ts SOCKET`, with a driver in mode `all` on that socket, as root.
 * Prints each step; ends with 0 when the data came back.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { CreateVolumeResponse, NodeGetInfoResponse } from '../../src/generated/csi.ts'
import { CsiClient, isTransient, mountAccess } from '../support/client.ts'

const socket = process.argv[2]
if (!socket) throw new TypeError('try.ts SOCKET: the socket of a driver in mode all')
const client = new CsiClient(socket)
const folder = mkdtempSync(join(tmpdir(), 'ublk-csi-try-'))
const [stagingTargetPath, targetPath] = [join(folder, 'stage'), join(folder, 'mount')]
mkdirSync(stagingTargetPath)

const RETRIES = 30
const RETRY_PAUSE_MS = 1_000

/** Calls again what passes by itself, as Kubernetes does: the driver may be starting, and a slow machine may need a second try. */
async function step<T>(what: string, run: () => Promise<T>): Promise<T> {
  const began = performance.now()
  for (let retry = 0; ; retry++) {
    try {
      const result = await run()
      console.log(`${what}: ${(performance.now() - began).toFixed(0)} ms`)
      return result
    } catch (error) {
      if (!isTransient(error) || retry === RETRIES) throw error
      await delay(RETRY_PAUSE_MS)
    }
  }
}

await step('the driver answers', () => client.call('identity', 'probe', {}))
const volumeCapability = mountAccess()
const { nodeId } = await client.call<NodeGetInfoResponse>('node', 'nodeGetInfo', {})
const wish = { name: `try ${folder}`, capacityRange: { requiredBytes: 256n << 20n }, volumeCapabilities: [volumeCapability] }
const { volume } = await step('created', () => client.call<CreateVolumeResponse>('controller', 'createVolume', wish))
const { volumeId, volumeContext } = volume!
const parts = { volumeId, volumeContext, volumeCapability, stagingTargetPath }
await step('published to this node', () => client.call('controller', 'controllerPublishVolume', { ...parts, nodeId }))
await step('staged: attached, formatted, mounted', () => client.call('node', 'nodeStageVolume', parts))
await step('mounted for a pod', () => client.call('node', 'nodePublishVolume', { ...parts, targetPath }))
writeFileSync(join(targetPath, 'hello'), 'written through NVMe/TCP\n')
await step('unmounted', () => client.call('node', 'nodeUnpublishVolume', { volumeId, targetPath }))
await step('detached', () => client.call('node', 'nodeUnstageVolume', { volumeId, stagingTargetPath }))
await step('staged again', () => client.call('node', 'nodeStageVolume', parts))
await step('mounted again', () => client.call('node', 'nodePublishVolume', { ...parts, targetPath }))
process.stdout.write(`it reads: ${readFileSync(join(targetPath, 'hello'), 'utf8')}`)
await client.call('node', 'nodeUnpublishVolume', { volumeId, targetPath })
await client.call('node', 'nodeUnstageVolume', { volumeId, stagingTargetPath })
await client.call('controller', 'controllerUnpublishVolume', { volumeId, nodeId })
await step('deleted', () => client.call('controller', 'deleteVolume', { volumeId }))
client.close()
rmSync(folder, { recursive: true })
