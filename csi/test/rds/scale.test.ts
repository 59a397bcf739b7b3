/** 1000 volumes on the router: what a listing and the capacity cost, in a process of the provider's own. */
import { execFile } from 'node:child_process'
import { truncateSync, writeFileSync } from 'node:fs'
import { promisify } from 'node:util'
import test from 'ava'
import { volumeId } from '../../src/ids.ts'
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
    for (let at = 0; at < VOLUMES; at++) {
      const slot = volumeId(`volume ${at}`)
      const path = `/raid10/csi/${slot}.img`
      const disk = {
        slot,
        path,
        mountFilesystem: false,
        exported: true,
        port: 4420,
        nqn: `nqn.2000-02.com.mikrotik:${slot}`,
        allowedHost: '',
      }
      writeFileSync(router.machine.local(path), '')
      truncateSync(router.machine.local(path), 1 << 20)
      router.machine.disks.push({ ...disk, id: 1_000 + at })
    }
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
