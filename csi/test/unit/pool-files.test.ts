import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { volumeId } from '../../src/ids.ts'
import { spaceOf } from '../../src/ublk/capacity.ts'
import { copyImage, emptyImage } from '../../src/ublk/copy.ts'
import { openSnapshots, openVolumes, type VolumeRecord } from '../../src/ublk/records.ts'

const MIB = 1 << 20

function directory(t: ExecutionContext): string {
  const path = mkdtempSync(join(tmpdir(), 'ublk-csi-'))
  t.teardown(() => rmSync(path, { recursive: true }))
  return path
}

const recordOf = (id: string, bytes: number, lineage = id): VolumeRecord => ({
  id,
  bytes,
  ready: true,
  source: null,
  lineage,
  overcommit: false,
  publishedTo: null,
  device: null,
})

test('records are found again, and what a write left half way is not', async (t) => {
  const pool = directory(t)
  const volumes = await openVolumes(pool)
  const [kept, removed] = [volumeId('kept'), volumeId('removed')]
  await volumes.put(recordOf(kept, 5))
  await volumes.put(recordOf(removed, 6))
  await volumes.put({ ...recordOf(kept, 7) })
  await volumes.remove(removed)
  writeFileSync(join(pool, 'volumes', `${volumeId('cut')}.json.new`), '{"id":')
  writeFileSync(join(pool, 'volumes', 'notes.json'), 'not ours')
  const again = await openVolumes(pool)
  t.deepEqual(again.all(), [recordOf(kept, 7)])
  t.false(readdirSync(join(pool, 'volumes')).some((name) => name.endsWith('.new')))
})

test('a damaged record is an error that names its file, not a volume that is gone', async (t) => {
  const pool = directory(t)
  const volumes = await openVolumes(pool)
  await volumes.put(recordOf(volumeId('a'), 5))
  truncateSync(join(pool, 'volumes', `${volumeId('a')}.json`), 10)
  await t.throwsAsync(openVolumes(pool), { message: /pvc-.*\.json is damaged/ })
})

test('a copy has the bytes and the holes of its source, in a larger file', async (t) => {
  const folder = directory(t)
  const [from, to] = [join(folder, 'from'), join(folder, 'to')]
  await emptyImage(from, 64 * MIB)
  const data = Buffer.alloc(3 * MIB, 7)
  writeFileSync(from, data, { flag: 'r+' })
  const progress: number[] = []
  await copyImage(from, to, { bytes: 80 * MIB, onProgress: (done) => progress.push(done) })
  const copy = readFileSync(to)
  t.is(copy.length, 80 * MIB)
  t.true(copy.subarray(0, 3 * MIB).equals(data))
  t.true(copy.subarray(3 * MIB).every((byte) => byte === 0))
  t.true(statSync(to).blocks * 512 < 8 * MIB, 'the holes were filled')
  t.is(statSync(to).mode & 0o777, 0o600)
})

test('a copy that fails leaves nothing under its name', async (t) => {
  const folder = directory(t)
  const [from, to] = [join(folder, 'from'), join(folder, 'to')]
  await emptyImage(from, 64 * MIB)
  const fail = (): void => {
    throw new Error('enough')
  }
  await copyImage(from, to, { bytes: 64 * MIB, onProgress: fail }).then(
    // The file system has reflinks: there was nothing to fail.
    () => t.true(statSync(to).size === 64 * MIB),
    (error) => {
      t.is(error.message, 'enough')
      t.throws(() => statSync(to), { message: /ENOENT/ })
    },
  )
})

test('what is promised and not taken counts, and shared blocks count as not taken', async (t) => {
  const pool = directory(t)
  const [volumes, snapshots] = [await openVolumes(pool), await openSnapshots(pool)]
  const [a, b] = [volumeId('a'), volumeId('b')]
  for (const id of [a, b]) {
    await volumes.put(recordOf(id, 64 * MIB))
    await emptyImage(volumes.dataPath(id), 64 * MIB)
  }
  t.is((await spaceOf(pool, volumes, snapshots)).promised, 128 * MIB)
  writeFileSync(volumes.dataPath(a), Buffer.alloc(16 * MIB, 1), { flag: 'r+' })
  const { promised, free } = await spaceOf(pool, volumes, snapshots)
  t.true(promised <= 112 * MIB && promised > 110 * MIB, String(promised))
  t.true(free > 0)
  await snapshots.put({ id: 'snap-1', sourceId: a, bytes: 64 * MIB, ready: true, lineage: a, createdAtMs: 0 })
  t.is((await spaceOf(pool, volumes, snapshots)).promised, 128 * MIB)
})
