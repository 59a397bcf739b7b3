import test from 'ava'
import { isSnapshotId, isVolumeId, nqnOf, snapshotId, volumeId } from '../../src/ids.ts'

test('an id follows from the name alone, and names of any kind give ids of one form', (t) => {
  for (const name of ['pvc-1', 'UPPER Case', 'x'.repeat(128), '"; /file remove [find]', '', 'ключ']) {
    t.is(volumeId(name), volumeId(name))
    t.true(isVolumeId(volumeId(name)), name)
    t.true(isSnapshotId(snapshotId(name)), name)
    t.not(volumeId(name).slice(4), snapshotId(name).slice(5))
  }
  t.not(volumeId('a'), volumeId('A'))
})

test('an id does not change with a release: volumes exist under it', (t) => {
  t.is(volumeId('pvc-0b6f'), 'pvc-894b85f5-1195-5cdc-86f5-41694b41f666')
  t.is(snapshotId('snapshot-0b6f'), 'snap-59eb9ae2-a611-55f9-bb6f-217db362d61b')
})

test('what this driver did not make is no id', (t) => {
  const good = volumeId('a')
  for (const id of [`${good}\n`, ` ${good}`, good.toUpperCase(), `${good}/..`, good.replace('pvc', 'snap'), 'pvc-', 'fake-vol-id', '']) {
    t.false(isVolumeId(id), id)
  }
  t.false(isSnapshotId(good))
})

test('the NQN of a volume begins with the vendor part', (t) => {
  t.is(nqnOf('pvc-x'), 'nqn.2000-02.com.mikrotik:pvc-x')
})
