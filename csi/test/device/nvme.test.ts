/** Disks on NVMe/TCP whose server or connection goes while they are in use. In the VM, on the kernel's own target. */
import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync, rmdirSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { NodeStageVolumeRequest } from '../../src/generated/csi.ts'
import { hostIdOf, nqnOf, volumeId } from '../../src/ids.ts'
import { Mounts } from '../../src/node/mounts.ts'
import { NvmeAttacher } from '../../src/node/nvme.ts'
import { findSubsystem } from '../../src/node/nvme-sysfs.ts'
import { stageVolume } from '../../src/node/stage-volume.ts'
import { Tools } from '../../src/node/tools.ts'
import { unstageVolume } from '../../src/node/unstage-volume.ts'
import type { NodeParts } from '../../src/plugin.ts'
import { NvmetExporter } from '../routeros/exporter.ts'
import { mountAccess } from '../support/client.ts'
import { sh } from '../support/pool.ts'

const ROOT = '/run/csi-nvme'
const HOST = 'nqn.2014-08.org.example:nvme-test'
const FOREIGN = 'nqn.2014-08.org.example:disk-of-the-node'
const BYTES = 64 << 20
const { signal } = new AbortController()
const exporter = new NvmetExporter()
const attacher = new NvmeAttacher({ hostNqn: HOST, ctrlLossSeconds: -1 })
const node: NodeParts = { nodeId: 'node-1', maxVolumes: 0, attacher, mounts: new Mounts(), tools: new Tools(), topology: null }

test.before(() => {
  sh('modprobe', '-a', 'nvmet-tcp', 'nvme-tcp')
  mkdirSync(ROOT, { recursive: true })
})
test.beforeEach((t) => t.timeout(300_000))

function exportImage(nqn: string, port: number): void {
  const path = `${ROOT}/${port}.img`
  writeFileSync(path, '')
  truncateSync(path, BYTES)
  exporter.export({ nqn, path, port, allowedHost: '' })
}

const contextOf = (id: string, port: number): Record<string, string> => ({
  nqn: nqnOf(id),
  address: '127.0.0.1',
  port: String(port),
  bytes: String(BYTES),
})

/** The server is gone from the network: who was connected is cut off, and nobody listens any more. */
function cutOff(nqn: string, port: number): void {
  const folder = `/sys/kernel/config/nvmet/ports/${port}`
  unlinkSync(`${folder}/subsystems/${nqn}`)
  rmdirSync(folder)
}

test.serial('a dead controller is disconnected in bounded time, what waits in it fails, and no other is touched', async (t) => {
  const id = volumeId('dead')
  exportImage(nqnOf(id), 4431)
  exportImage(FOREIGN, 4432)
  t.teardown(() => [nqnOf(id), FOREIGN].forEach((nqn) => void exporter.unexport(nqn)))
  const host = [`--hostnqn=${HOST}`, `--hostid=${hostIdOf(HOST)}`]
  sh('nvme', 'connect', '--transport=tcp', '--traddr=127.0.0.1', '--trsvcid=4432', `--nqn=${FOREIGN}`, ...host)
  t.teardown(() => sh('nvme', 'disconnect', `--nqn=${FOREIGN}`))
  const { path } = await attacher.attach(id, contextOf(id, 4431), signal)
  cutOff(nqnOf(id), 4431)
  while ((await findSubsystem(nqnOf(id)))?.controllers[0]?.state !== 'connecting') await delay(50)
  const writing = new Promise<Error | null>((resolve) => {
    execFile('dd', ['if=/dev/zero', `of=${path}`, 'bs=4096', 'count=1', 'oflag=direct'], resolve)
  })
  await delay(500)

  const begunMs = performance.now()
  await attacher.detach(id, signal)
  t.true(performance.now() - begunMs < 30_000)
  t.not(await writing, null)
  t.is(await attacher.attached(id), undefined)
  t.is((await findSubsystem(FOREIGN))?.controllers[0]?.state, 'live')
})

test.serial('a volume whose disk went under its mount can be unstaged, and staged again with its data', async (t) => {
  const id = volumeId('gone')
  exportImage(nqnOf(id), 4433)
  t.teardown(() => exporter.unexport(nqnOf(id)))
  const staging = `${ROOT}/staging`
  const stage = () => {
    const volumeContext = { ...contextOf(id, 4433), blank: 'true' }
    const given = { volumeId: id, stagingTargetPath: staging, volumeCapability: mountAccess(), volumeContext }
    return stageVolume(NodeStageVolumeRequest.fromPartial(given), node, signal)
  }
  const unstage = () => unstageVolume({ volumeId: id, stagingTargetPath: staging }, node, signal)
  await stage()
  writeFileSync(`${staging}/file`, 'kept')
  sh('sync', '-f', staging)
  sh('nvme', 'disconnect', `--nqn=${nqnOf(id)}`)
  await unstage()
  t.is(await node.mounts.at(staging), undefined)
  await stage()
  t.is(readFileSync(`${staging}/file`, 'utf8'), 'kept')
  await unstage()
})
