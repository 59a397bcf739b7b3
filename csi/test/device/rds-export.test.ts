/** The test router exports through the kernel's nvmet, and this kernel attaches over NVMe/TCP: what a router and a node would do. In the VM. */
import { execFileSync } from 'node:child_process'
import { closeSync, constants, existsSync, openSync, readdirSync, readFileSync, readSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { NQN_PREFIX, nqnOf, snapshotId } from '../../src/ids.ts'
import { hostNqnOf } from '../../src/rds/names.ts'
import { lab, soon, wishOf } from '../rds/harness.ts'
import { NvmetExporter } from '../routeros/exporter.ts'

const HOST_ID = '2f1f3c5e-7f40-4d5b-9f52-3d0b6a0d5b11'
const MIB = 1 << 20

const run = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: 'pipe', timeout: 30_000 })

function connect(id: string, node: string): void {
  const host = ['--hostnqn', hostNqnOf(node), '--hostid', HOST_ID]
  run(
    'nvme',
    'connect',
    '-t',
    'tcp',
    '-a',
    '127.0.0.1',
    '-s',
    '4420',
    '-n',
    nqnOf(id),
    ...host,
    '--reconnect-delay',
    '1',
    '--ctrl-loss-tmo',
    '60',
  )
}

const disconnect = (id: string): string => run('nvme', 'disconnect', '-n', nqnOf(id))

/** Block device of a subsystem, once it is there. */
async function deviceOf(id: string): Promise<string> {
  for (let turn = 0; turn < 100; turn++) {
    for (const name of readdirSync('/sys/class/nvme-subsystem')) {
      const folder = join('/sys/class/nvme-subsystem', name)
      if (readFileSync(join(folder, 'subsysnqn'), 'utf8').trim() !== nqnOf(id)) continue
      const head = readdirSync(folder).find((entry) => /^nvme\d+n\d+$/.test(entry))
      if (head && existsSync(`/dev/${head}`)) return `/dev/${head}`
    }
    await delay(50)
  }
  throw new Error(`no device of ${id}`)
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (let turn = 0; turn < 200; turn++) {
    if (holds()) return
    await delay(50)
  }
  throw new Error(`not in time: ${what}`)
}

const bytesOf = (device: string): number => Number(readFileSync(`/sys/class/block/${device.slice(5)}/size`, 'utf8')) * 512

function write(device: string, text: string, at = 0): void {
  const file = openSync(device, constants.O_WRONLY | constants.O_SYNC)
  writeSync(file, Buffer.from(text.padEnd(4096, '.')), 0, 4096, at)
  closeSync(file)
}

function read(device: string, length: number, at = 0): string {
  run('blockdev', '--flushbufs', device)
  const file = openSync(device, 'r')
  const piece = Buffer.alloc(4096)
  readSync(file, piece, 0, 4096, at)
  closeSync(file)
  return piece.subarray(0, length).toString('latin1')
}

test.before(() => {
  run('modprobe', '-a', 'nvmet', 'nvmet_tcp', 'nvme_tcp')
  if (!existsSync('/sys/kernel/config/nvmet')) run('mount', '-t', 'configfs', 'none', '/sys/kernel/config')
  writeFileSync('/proc/sys/kernel/printk', '4')
})

test.afterEach.always(() => {
  for (const name of existsSync('/sys/class/nvme-subsystem') ? readdirSync('/sys/class/nvme-subsystem') : []) {
    const nqn = readFileSync(`/sys/class/nvme-subsystem/${name}/subsysnqn`, 'utf8').trim()
    if (nqn.startsWith(NQN_PREFIX)) run('nvme', 'disconnect', '-n', nqn)
  }
})

test.serial('data written through NVMe/TCP is in the image, survives a reboot of the router and a growth', async (t) => {
  const { router, provider } = await lab(t, { exporter: new NvmetExporter() })
  const { id } = await provider.createVolume(wishOf('one', { bytes: BigInt(64 * MIB) }), soon())
  await provider.publish(id, 'node-1', soon())
  connect(id, 'node-1')
  const device = await deviceOf(id)
  t.is(bytesOf(device), 64 * MIB)
  write(device, 'before the reboot', MIB)
  await router.reboot(500)
  write(device, 'after the reboot', 2 * MIB)
  t.is(read(device, 17, MIB), 'before the reboot')
  await provider.expandVolume(id, BigInt(96 * MIB), soon())
  await until('the device has its new size', () => bytesOf(device) === 96 * MIB)
  write(device, 'in the new part', 80 * MIB)
  disconnect(id)
  const image = readFileSync(router.machine.local(`/raid10/csi/${id}.img`))
  t.is(image.subarray(2 * MIB, 2 * MIB + 16).toString(), 'after the reboot')
  t.is(image.subarray(80 * MIB, 80 * MIB + 15).toString(), 'in the new part')
})

test.serial('a host that is not let in is refused, and one that was is thrown out', async (t) => {
  const { provider } = await lab(t, { exporter: new NvmetExporter() })
  const { id } = await provider.createVolume(wishOf('one', { bytes: BigInt(16 * MIB) }), soon())
  t.throws(() => connect(id, 'node-1'))
  await provider.publish(id, 'node-1', soon())
  t.throws(() => connect(id, 'node-2'))
  connect(id, 'node-1')
  const device = await deviceOf(id)
  write(device, 'mine')
  await provider.unpublish(id, 'node-1', soon())
  await provider.publish(id, 'node-2', soon())
  await until('the first host lost its controller', () => !controllersOf(id).includes('live'))
  disconnect(id)
  connect(id, 'node-2')
  t.is(read(await deviceOf(id), 4), 'mine')
})

test.serial('a snapshot and its clone hold the data that was there', async (t) => {
  const { provider } = await lab(t, { exporter: new NvmetExporter() })
  const { id } = await provider.createVolume(wishOf('one', { bytes: BigInt(16 * MIB) }), soon())
  await provider.publish(id, 'node-1', soon())
  connect(id, 'node-1')
  write(await deviceOf(id), 'of the snapshot', MIB)
  disconnect(id)
  await provider.unpublish(id, 'node-1', soon())
  const snapshot = await provider.createSnapshot(snapshotId('s'), id, soon())
  const clone = await provider.createVolume(
    wishOf('clone', { bytes: BigInt(32 * MIB), source: { kind: 'snapshot', id: snapshot.id } }),
    soon(),
  )
  await provider.publish(clone.id, 'node-1', soon())
  connect(clone.id, 'node-1')
  const device = await deviceOf(clone.id)
  t.is(bytesOf(device), 32 * MIB)
  t.is(read(device, 15, MIB), 'of the snapshot')
})

function controllersOf(id: string): string[] {
  return readdirSync('/sys/class/nvme')
    .filter((name) => readFileSync(`/sys/class/nvme/${name}/subsysnqn`, 'utf8').trim() === nqnOf(id))
    .map((name) => readFileSync(`/sys/class/nvme/${name}/state`, 'utf8').trim())
}
