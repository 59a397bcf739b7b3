/** 1000 volumes on the router: what a listing and the capacity cost, in a process of the provider's own. */
import { execFile } from 'node:child_process'
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test from 'ava'
import type { CreateVolumeResponse, ListVolumesResponse } from '../../src/generated/csi.ts'
import { volumeId } from '../../src/ids.ts'
import { NOBODY } from '../../src/rds/names.ts'
import type { Machine } from '../routeros/machine.ts'
import { CsiClient, mountAccess } from '../support/client.ts'
import { startChild } from '../support/programs.ts'
import { lab } from './harness.ts'

const VOLUMES = 1_000
const LIMIT_MS = 2_000
const LIMIT_BYTES = 150 << 20

/** Runs in the child: each figure is of the second call, with the connection there. */
const MEASURE = `
import { RdsProvider } from '${new URL('../../src/rds/provider.ts', import.meta.url)}'
const provider = new RdsProvider(JSON.parse(process.argv[1]))
const soon = () => AbortSignal.timeout(60_000)
await provider.probe(soon())
const timed = async (run) => { await run(); const began = performance.now(); const value = await run(); return [performance.now() - began, value] }
const [listMs, list] = await timed(() => provider.volumes(soon()))
const [capacityMs] = await timed(() => provider.capacity({}, soon()))
for (let turn = 0; turn < 20; turn++) await provider.volumes(soon())
console.log(JSON.stringify({ listMs, capacityMs, volumes: list.length, bytes: process.memoryUsage().rss }))
await provider.close()
`

for (const [form, options] of [
  ['JSON', {}],
  ['text at 80 columns', { width: 80 }],
] as const) {
  test(`${VOLUMES} volumes as ${form}: listed, and the capacity told, within ${LIMIT_MS} ms each and 150 MB`, async (t) => {
    const { router, config } = await lab(t, options)
    if (form !== 'JSON') router.faults.arm({ kind: 'malformed', match: '/console inspect', times: 1 })
    fill(router.machine, VOLUMES)
    const { stdout } = await promisify(execFile)(process.execPath, [
      '--max-semi-space-size=2',
      '--input-type=module',
      '-e',
      MEASURE,
      JSON.stringify(config),
    ])
    const { listMs, capacityMs, volumes, bytes } = JSON.parse(stdout) as Record<'listMs' | 'capacityMs' | 'volumes' | 'bytes', number>
    t.log(`list ${listMs.toFixed(0)} ms, capacity ${capacityMs.toFixed(0)} ms, ${(bytes / 2 ** 20).toFixed(0)} MiB resident`)
    t.is(volumes, VOLUMES)
    t.true(listMs < LIMIT_MS && capacityMs < LIMIT_MS)
    t.true(bytes < LIMIT_BYTES)
  })
}

test('the program as a controller: 20 calls at a time make 20 volumes; 1000 are listed, and the capacity told, in time and 150 MB', async (t) => {
  const { router, config, directory } = await lab(t)
  const settings = join(directory, 'rds.yaml')
  const { nvmeAddress: _, ...rds } = config
  writeFileSync(settings, JSON.stringify({ rds }))
  const socket = join(directory, 'csi.sock')
  const flags = ['--mode', 'controller', '--provider', 'rds', '--endpoint', `unix://${socket}`, '--config', settings]
  const program = new URL('../../bin/dev.js', import.meta.url).pathname
  const running = startChild(process.execPath, ['--max-semi-space-size=2', program, ...flags])
  const client = new CsiClient(socket)
  t.teardown(async () => {
    client.close()
    await running.end()
  })
  await running.says('"serving"')
  const make = (name: string): Promise<CreateVolumeResponse> =>
    client.call('controller', 'createVolume', { name, capacityRange: { requiredBytes: 1n << 20n }, volumeCapabilities: [mountAccess()] })
  const names = Array.from({ length: 20 }, (_value, at) => `claim ${at}`)
  const made = await Promise.all([...names, ...names].map((name) => make(name).catch(() => make(name).catch(() => undefined))))
  t.is(new Set(made.flatMap((response) => response?.volume?.volumeId ?? [])).size, names.length)
  t.is(router.machine.disks.length, names.length)
  fill(router.machine, VOLUMES - names.length)
  const timed = async <T>(run: () => Promise<T>): Promise<[number, T]> => {
    const began = performance.now()
    const value = await run()
    return [performance.now() - began, value]
  }
  const [listMs, { entries }] = await timed(() => client.call<ListVolumesResponse>('controller', 'listVolumes', {}))
  const [capacityMs] = await timed(() => client.call('controller', 'getCapacity', {}))
  const resident = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${running.child.pid}/status`, 'utf8'))![1]) * 1024
  t.log(`list ${listMs.toFixed(0)} ms, capacity ${capacityMs.toFixed(0)} ms, ${(resident / 2 ** 20).toFixed(0)} MiB resident`)
  t.is(entries.length, VOLUMES)
  t.true(listMs < LIMIT_MS && capacityMs < LIMIT_MS)
  t.true(resident < LIMIT_BYTES)
})

/** Disks as a driver would have made them, without the time that it takes. */
function fill(machine: Machine, count: number): void {
  for (let at = 0; at < count; at++) {
    const slot = volumeId(`volume ${at}`)
    const path = `/raid10/csi/${slot}.img`
    writeFileSync(machine.local(path), '')
    truncateSync(machine.local(path), 1 << 20)
    const nqn = `nqn.2000-02.com.mikrotik:${slot}`
    machine.disks.push({ id: 10_000 + at, slot, path, mountFilesystem: false, exported: true, port: 4420, nqn, allowedHost: NOBODY })
  }
}
