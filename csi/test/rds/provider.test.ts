import { existsSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { status } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { CsiError } from '../../src/errors.ts'
import { nqnOf, snapshotId, volumeId } from '../../src/ids.ts'
import { hostNqnOf, NOBODY, unfinished } from '../../src/rds/names.ts'
import type { Fault } from '../routeros/faults.ts'
import { GIB, lab, soon, wishOf } from './harness.ts'

async function refused(t: ExecutionContext, promise: Promise<unknown>, code: status, message: RegExp): Promise<void> {
  const error = await t.throwsAsync(promise, { instanceOf: CsiError, message })
  t.is(status[(error as CsiError).code], status[code])
}

/** Asks again, as Kubernetes does, while the answer is ABORTED. */
async function again<T>(call: () => Promise<T>): Promise<T> {
  const end = Date.now() + 10_000
  for (;;) {
    try {
      return await call()
    } catch (error) {
      if (!(error instanceof CsiError && error.code === status.ABORTED) || Date.now() > end) throw error
      await delay(20)
    }
  }
}

for (const [name, options] of [
  ['JSON', {}],
  ['JSON with integers as floats', { floatIntegers: true }],
  ['text at 80 columns', { version: '7.21', width: 80 }],
] as const) {
  test(`${name}: a volume is created, found, listed, grown and deleted with its file`, async (t) => {
    const { router, exporter, provider } = await lab(t, options)
    if (name.startsWith('text')) router.faults.arm({ kind: 'malformed', match: '/console inspect', times: 1000 })
    const wish = wishOf('one')
    const made = await provider.createVolume(wish, soon())
    const context = { provider: 'rds', nqn: nqnOf(wish.id), address: '10.0.0.1', port: '4420', nsid: '1', bytes: String(GIB) }
    t.like(made, { id: wish.id, bytes: GIB, context, blank: true })
    t.like(exporter.exports.get(nqnOf(wish.id)), { port: 4420, path: router.machine.local(`/raid10/csi/${wish.id}.img`) })
    t.like(router.machine.disks[0], { slot: wish.id, mountFilesystem: false })
    t.deepEqual(await provider.createVolume(wish, soon()), made)
    t.deepEqual(await provider.volumes(soon()), [made])
    t.deepEqual(await provider.volume(wish.id, soon()), made)
    t.is((await provider.expandVolume(wish.id, 3n * GIB, soon())).bytes, 3n * GIB)
    t.is((await provider.expandVolume(wish.id, 2n * GIB, soon())).bytes, 3n * GIB)
    t.is(statSync(router.machine.local(`/raid10/csi/${wish.id}.img`)).size, Number(3n * GIB))
    await provider.deleteVolume(wish.id, soon())
    await provider.deleteVolume(wish.id, soon())
    t.deepEqual([router.machine.disks, router.machine.files(), [...exporter.exports.keys()]], [[], [], []])
    t.is(router.mostChannels, 1)
    t.is(router.logins, 1)
  })
}

test('the same name with another size or source is taken', async (t) => {
  const { provider } = await lab(t)
  await provider.createVolume(wishOf('one'), soon())
  await provider.createVolume(wishOf('two'), soon())
  await refused(t, provider.createVolume(wishOf('one', { bytes: 2n * GIB }), soon()), status.ALREADY_EXISTS, /has 1073741824 bytes/)
  const source = { kind: 'volume', id: volumeId('two') } as const
  await refused(t, provider.createVolume(wishOf('one', { source }), soon()), status.ALREADY_EXISTS, /another source/)
})

test('a parameter that is not known is refused, and those of the sidecars are not ours to judge', async (t) => {
  const { router, provider } = await lab(t)
  const metadata = { 'csi.storage.k8s.io/pvc/name': 'claim' }
  for (const name of ['ctrlLossTmo', 'fence']) {
    const parameters = { ...metadata, [name]: '1' }
    await refused(
      t,
      provider.createVolume(wishOf('one', { parameters }), soon()),
      status.INVALID_ARGUMENT,
      new RegExp(`"${name}" is not known`),
    )
    await refused(t, provider.capacity(parameters, soon()), status.INVALID_ARGUMENT, new RegExp(`"${name}" is not known`))
  }
  t.deepEqual(router.machine.disks, [])
  await provider.createVolume(wishOf('one', { parameters: metadata }), soon())
  t.true((await provider.capacity(metadata, soon())).available > 0n)
})

test('data of a finished volume stays when its creation is asked for again, and its export is put right', async (t) => {
  const { router, exporter, provider } = await lab(t)
  const { id } = await provider.createVolume(wishOf('one'), soon())
  writeFileSync(router.machine.local(`/raid10/csi/${id}.img`), 'precious', { flag: 'r+' })
  router.machine.changeDisk(router.machine.disks[0]!, { exported: false, mountFilesystem: true }, undefined)
  await provider.createVolume(wishOf('one'), soon())
  t.true(exporter.exports.has(nqnOf(id)))
  t.false(router.machine.disks[0]!.mountFilesystem)
  t.is(
    readFileSync(router.machine.local(`/raid10/csi/${id}.img`))
      .subarray(0, 8)
      .toString(),
    'precious',
  )
})

test('a file that an interrupted call left does not become the data of a new volume', async (t) => {
  const { router, provider } = await lab(t)
  const path = router.machine.local(`/raid10/csi/${volumeId('one')}.img`)
  writeFileSync(path, 'old data')
  truncateSync(path, Number(GIB))
  await provider.createVolume(wishOf('one'), soon())
  t.is(readFileSync(path).subarray(0, 8).toString(), '\0'.repeat(8))
})

test('deleting finds the file where the disk is gone, and touches nothing that is not exactly its own', async (t) => {
  const { router, provider } = await lab(t)
  const id = volumeId('one')
  const strange = [`${id}.img.bak`, `x-${id}.img`, `${id}.from.me.img`, `${volumeId('two')}.img`]
  for (const file of [`${id}.img`, `${id}.from.${volumeId('two')}.img`, ...strange])
    writeFileSync(router.machine.local(`/raid10/csi/${file}`), '')
  writeFileSync(router.machine.local(`/raid10/${id}.img`), '')
  await provider.deleteVolume(id, soon())
  t.deepEqual(
    router.machine.files().map(({ name }) => name),
    [...strange.map((file) => `raid10/csi/${file}`), `raid10/${id}.img`].sort(),
  )
})

test('ids that are not ours never become part of a command', async (t) => {
  const { router, provider } = await lab(t)
  await provider.probe(soon())
  const before = router.scripts.length
  for (const id of ['fake-vol-id', 'pvc-1"; /system reboot', '', `${volumeId('one')}\n/disk remove`]) {
    await provider.deleteVolume(id, soon())
    await provider.deleteSnapshot(id, soon())
    await provider.unpublish(id, undefined, soon())
    t.is(await provider.volume(id, soon()), undefined)
    await t.throwsAsync(provider.expandVolume(id, GIB, soon()), { instanceOf: CsiError, message: /no disk/ })
    await t.throwsAsync(provider.publish(id, 'node-1', soon()), { instanceOf: CsiError, message: /no disk/ })
  }
  t.is(router.scripts.length, before)
  await t.throwsAsync(provider.createVolume({ ...wishOf('one'), id: 'x" ; /system reboot' }, soon()), {
    message: /cannot be a RouterOS slot/,
  })
  await t.throwsAsync(provider.publish((await provider.createVolume(wishOf('one'), soon())).id, 'node" ; :put "', soon()), {
    message: /cannot be a RouterOS nvme-tcp-server-allow-host-name/,
  })
  t.deepEqual([...new Set(router.console.ran.filter((name) => name.startsWith('/system')))], ['/system/resource/get'])
})

test('one node at a time is let in, and thrown out by unpublishing', async (t) => {
  const { exporter, provider } = await lab(t)
  const { id } = await provider.createVolume(wishOf('one'), soon())
  t.true(provider.can.publish)
  const allowed = (): string => exporter.exports.get(nqnOf(id))!.allowedHost
  t.is(allowed(), NOBODY)
  await provider.publish(id, 'node-1', soon())
  await provider.publish(id, 'node-1', soon())
  t.is(allowed(), hostNqnOf('node-1'))
  t.deepEqual((await provider.volume(id, soon()))?.publishedTo, ['node-1'])
  await refused(t, provider.publish(id, 'node-2', soon()), status.FAILED_PRECONDITION, /published to node-1/)
  await refused(t, provider.deleteVolume(id, soon()), status.FAILED_PRECONDITION, /published to node-1/)
  await provider.unpublish(id, 'node-2', soon())
  t.is(allowed(), hostNqnOf('node-1'))
  const begun = exporter.begun
  await provider.unpublish(id, 'node-1', soon())
  t.is(exporter.begun, begun + 1)
  await provider.unpublish(id, undefined, soon())
  t.is(allowed(), NOBODY)
  await provider.publish(id, 'node-2', soon())
  t.is(allowed(), hostNqnOf('node-2'))
})

test('without the fence every host may connect, and snapshots are not offered', async (t) => {
  const { exporter, provider } = await lab(t, {}, { fence: 'off' })
  const { id, publishedTo } = await provider.createVolume(wishOf('one'), soon())
  t.is(exporter.exports.get(nqnOf(id))!.allowedHost, '')
  t.is(publishedTo, undefined)
  t.deepEqual(provider.can, { snapshots: false, clones: false, publish: false })
})

test('a snapshot and a clone hold the data of their source, and outlive it', async (t) => {
  const { router, exporter, provider } = await lab(t)
  const { id } = await provider.createVolume(wishOf('one', { bytes: 8n << 20n }), soon())
  t.deepEqual(provider.can, { snapshots: true, clones: true, publish: true })
  writeFileSync(router.machine.local(`/raid10/csi/${id}.img`), 'first', { flag: 'r+' })
  const snapshot = await provider.createSnapshot(snapshotId('s'), id, soon())
  t.like(snapshot, { id: snapshotId('s'), sourceId: id, bytes: 8n << 20n, ready: true })
  writeFileSync(router.machine.local(`/raid10/csi/${id}.img`), 'later', { flag: 'r+' })
  t.deepEqual(await provider.createSnapshot(snapshotId('s'), id, soon()), snapshot)
  t.deepEqual(await provider.snapshots(soon()), [snapshot])
  const restored = await provider.createVolume(
    wishOf('restored', { bytes: 16n << 20n, source: { kind: 'snapshot', id: snapshot.id } }),
    soon(),
  )
  const clone = await provider.createVolume(wishOf('clone', { bytes: 8n << 20n, source: { kind: 'volume', id } }), soon())
  t.like(restored, { blank: false, bytes: 16n << 20n, source: { kind: 'snapshot', id: snapshot.id } })
  t.like(clone, { blank: false, source: { kind: 'volume', id } })
  t.deepEqual(await provider.volume(clone.id, soon()), clone)
  const dataOf = (slot: string): string =>
    readFileSync(router.machine.local(router.machine.disks.find((disk) => disk.slot === slot)!.path))
      .subarray(0, 5)
      .toString()
  await provider.deleteVolume(id, soon())
  t.deepEqual([snapshot.id, restored.id, clone.id].map(dataOf), ['first', 'first', 'later'])
  t.false(exporter.exports.has(nqnOf(snapshot.id)))
  for (const volume of [restored, clone]) await provider.deleteVolume(volume.id, soon())
  await provider.deleteSnapshot(snapshot.id, soon())
  await provider.deleteSnapshot(snapshot.id, soon())
  t.deepEqual([router.machine.disks, router.machine.files()], [[], []])
})

test('a snapshot is refused of a disk in use, of none, under a taken name, and a clone that is too small', async (t) => {
  const { router, provider } = await lab(t)
  const { id } = await provider.createVolume(wishOf('one', { bytes: 8n << 20n }), soon())
  const two = await provider.createVolume(wishOf('two', { bytes: 8n << 20n }), soon())
  await provider.createSnapshot(snapshotId('s'), id, soon())
  await refused(t, provider.createSnapshot(snapshotId('s'), two.id, soon()), status.ALREADY_EXISTS, /a snapshot of/)
  await refused(t, provider.createSnapshot(snapshotId('n'), volumeId('none'), soon()), status.NOT_FOUND, /no disk/)
  const source = { kind: 'volume', id } as const
  await refused(t, provider.createVolume(wishOf('c', { bytes: 4n << 20n, source }), soon()), status.FAILED_PRECONDITION, /needs 8388608/)
  await provider.publish(id, 'node-1', soon())
  await refused(t, provider.createSnapshot(snapshotId('u'), id, soon()), status.FAILED_PRECONDITION, /published to node-1/)
  t.is(router.machine.disks.length, 3)
})

test('a copy that outlasts its call goes on, and the next call joins it', async (t) => {
  const { router, provider } = await lab(t)
  const { id } = await provider.createVolume(wishOf('one', { bytes: 8n << 20n }), soon())
  router.faults.arm({ kind: 'slow', match: '/disk copy', milliseconds: 1_000 })
  const call = new AbortController()
  const first = provider.createSnapshot(snapshotId('s'), id, call.signal)
  while (!router.scripts.some((script) => script.includes('/disk copy'))) await delay(5)
  call.abort()
  await refused(t, first, status.DEADLINE_EXCEEDED, /goes on/)
  await refused(t, provider.publish(id, 'node-1', soon()), status.ABORTED, /being copied/)
  await provider.createSnapshot(snapshotId('s'), id, soon())
  t.is(router.scripts.filter((script) => script.includes('/disk copy')).length, 1)
})

test('a copy that nobody heard the end of holds up neither its source nor its target', async (t) => {
  const { router, provider } = await lab(t)
  const { id } = await provider.createVolume(wishOf('one', { bytes: 8n << 20n }), soon())
  const copies = (): number => router.scripts.filter((script) => script.includes('/disk copy')).length
  const abandon = async (started: (signal: AbortSignal) => Promise<unknown>): Promise<void> => {
    router.faults.arm({ kind: 'slow', match: '/disk copy', milliseconds: 1_000 })
    const [call, before] = [new AbortController(), copies()]
    const first = started(call.signal)
    while (copies() === before) await delay(5)
    call.abort()
    await refused(t, first, status.DEADLINE_EXCEEDED, /goes on/)
  }
  const clone = wishOf('clone', { bytes: 8n << 20n, source: { kind: 'volume', id } })
  await abandon((signal) => provider.createVolume(clone, signal))
  await refused(t, provider.deleteVolume(clone.id, soon()), status.ABORTED, /goes on/)
  await again(() => provider.publish(id, 'node-1', soon()))
  await provider.unpublish(id, 'node-1', soon())
  // Deleted, it is forgotten: the next call of the same name makes it from nothing.
  await provider.deleteVolume(clone.id, soon())
  await provider.createVolume(clone, soon())
  t.is(copies(), 2)
  await abandon((signal) => provider.createSnapshot(snapshotId('s'), id, signal))
  await refused(t, provider.deleteSnapshot(snapshotId('s'), soon()), status.ABORTED, /goes on/)
  await again(() => provider.deleteVolume(id, soon()))
  await provider.deleteSnapshot(snapshotId('s'), soon())
  t.deepEqual(
    router.machine.disks.map(({ slot }) => slot),
    [clone.id],
  )
})

test('what a dead driver left half made is begun again', async (t) => {
  const { router, provider, another } = await lab(t)
  const { id } = await provider.createVolume(wishOf('one', { bytes: 8n << 20n }), soon())
  const path = `/raid10/csi/${snapshotId('s')}.${id}.1700000000.img`
  const half = { slot: unfinished(snapshotId('s')), path, mountFilesystem: false, exported: false, port: 4420, nqn: '', allowedHost: '' }
  router.machine.addDisk(half, 8 << 20)
  t.deepEqual(await another().snapshots(soon()), [])
  await another().createSnapshot(snapshotId('s'), id, soon())
  t.deepEqual(
    router.machine.disks.map(({ slot }) => slot),
    [id, snapshotId('s')],
  )
  await another().deleteSnapshot(snapshotId('s'), soon())
  t.false(existsSync(router.machine.local(path)))
  t.is(router.machine.files().length, 1)
})

test('no more is promised of a pool whose images are sparse than it has', async (t) => {
  const { router, provider } = await lab(t, { poolBytes: Number(10n * GIB), sparse: true })
  const { id } = await provider.createVolume(wishOf('one', { bytes: 4n * GIB }), soon())
  const available = async (): Promise<bigint> => (await provider.capacity({}, soon())).available
  t.is(await available(), 6n * GIB)
  const two = wishOf('two', { bytes: 6n * GIB + 1n })
  await refused(
    t,
    provider.createVolume(two, soon()),
    status.RESOURCE_EXHAUSTED,
    /needs 6442451456 more bytes.* has 6442450944 .*overcommit/,
  )
  await refused(t, provider.expandVolume(id, 10n * GIB + 1n, soon()), status.RESOURCE_EXHAUSTED, /needs 6442451456 more bytes/)
  t.deepEqual([router.machine.disks.length, router.machine.files().length, await available()], [1, 1, 6n * GIB])
  await provider.expandVolume(id, 7n * GIB, soon())
  await refused(t, provider.createSnapshot(snapshotId('s'), id, soon()), status.RESOURCE_EXHAUSTED, /not promised/)
  await provider.createVolume(wishOf('three', { bytes: 3n * GIB }), soon())
  t.is(await available(), 0n)
})

test('volumes that are made at the same time do not take the same room', async (t) => {
  const { router, provider } = await lab(t, { poolBytes: Number(10n * GIB), sparse: true })
  const wishes = Array.from({ length: 5 }, (_, at) => wishOf(`volume ${at}`, { bytes: 4n * GIB }))
  const made = await Promise.allSettled(wishes.map((wish) => provider.createVolume(wish, soon())))
  t.is(made.filter((result) => result.status === 'fulfilled').length, 2)
  t.is(router.machine.disks.length, 2)
})

test('with overcommit more is promised than there is, and the capacity is what is free', async (t) => {
  const { provider } = await lab(t, { poolBytes: Number(10n * GIB), sparse: true }, { overcommit: true })
  const { id } = await provider.createVolume(wishOf('one', { bytes: 4n * GIB }), soon())
  await provider.createVolume(wishOf('two', { bytes: 8n * GIB }), soon())
  t.is((await provider.expandVolume(id, 9n * GIB, soon())).bytes, 9n * GIB)
  t.deepEqual(await provider.capacity({}, soon()), { available: 10n * GIB, largestVolume: 10n * GIB })
})

test('capacity is what is free and not promised; a volume too large is refused as such', async (t) => {
  const { provider, router, another } = await lab(t, { poolBytes: Number(10n * GIB) })
  t.is((await provider.capacity({}, soon())).available, 10n * GIB)
  await provider.createVolume(wishOf('one', { bytes: 4n * GIB }), soon())
  t.deepEqual(await provider.capacity({}, soon()), { available: 6n * GIB, largestVolume: 6n * GIB })
  const two = wishOf('two', { bytes: 7n * GIB })
  await refused(t, provider.createVolume(two, soon()), status.RESOURCE_EXHAUSTED, /6442450944 that are not promised.*delete volumes/)
  await refused(t, provider.expandVolume(volumeId('one'), 11n * GIB, soon()), status.RESOURCE_EXHAUSTED, /not promised/)
  // What the router itself finds too much is told in its words.
  const daring = another({ overcommit: true })
  await refused(t, daring.createVolume(two, soon()), status.RESOURCE_EXHAUSTED, /not enough space.*delete volumes/)
  await refused(t, daring.expandVolume(volumeId('one'), 11n * GIB, soon()), status.RESOURCE_EXHAUSTED, /not enough space/)
  t.is(router.machine.disks.length, 1)
})

for (const [name, options] of [
  ['JSON', {}],
  ['text at 80 columns', { version: '7.21', width: 80 }],
] as const) {
  test(`${name}: a disk without a size takes nothing from the others, and one of ours is told to the log`, async (t) => {
    const { router, provider, warnings } = await lab(t, { ...options, poolBytes: Number(10n * GIB) })
    if (name.startsWith('text')) router.faults.arm({ kind: 'malformed', match: '/console inspect', times: 1000 })
    const one = await provider.createVolume(wishOf('one'), soon())
    const { id } = await provider.createVolume(wishOf('two'), soon())
    const settings = { mountFilesystem: false, exported: false, port: 4420, nqn: '', allowedHost: '' }
    router.machine.addDisk({ ...settings, slot: 'backup1', path: '/raid10/backup.img' }, 1)
    for (const path of ['/raid10/backup.img', `/raid10/csi/${id}.img`]) rmSync(router.machine.local(path))
    t.deepEqual(await provider.volumes(soon()), [one])
    t.deepEqual(await provider.snapshots(soon()), [])
    t.is((await provider.capacity({}, soon())).available, 9n * GIB)
    t.deepEqual(warnings, [{ volumeId: id }])
    await refused(t, provider.volume(id, soon()), status.UNAVAILABLE, /size is undefined/)
  })
}

const RETRIED: [string, Fault][] = [
  ['the connection is lost before the command', { kind: 'drop-before', match: '/disk add' }],
  ['the connection is lost after the command', { kind: 'drop-after', match: '/disk add' }],
  ['the connection is lost after the export', { kind: 'drop-after', match: '/disk set' }],
  ['the connection is lost at every command', { kind: 'drop-after', times: 3 }],
  ['the reply is cut', { kind: 'malformed', match: '/disk add' }],
  ['a list is cut', { kind: 'malformed', match: 'print' }],
  ['log lines come in between', { kind: 'interleaved', times: 100 }],
  ['the answer is slow', { kind: 'slow', match: '/disk add', milliseconds: 300 }],
  ['the router reboots', { kind: 'reboot', match: '/disk add', milliseconds: 5 }],
]
for (const [name, fault] of RETRIED) {
  for (const width of [80, undefined]) {
    test(`${name}${width ? `, at ${width} columns` : ''}: one volume is made all the same, and goes without rest`, async (t) => {
      const { router, exporter, provider } = await lab(t, width ? { width, version: '7.21.3' } : {})
      await provider.probe(soon())
      router.faults.arm(fault)
      const { id } = await provider.createVolume(wishOf('one'), soon())
      t.deepEqual(
        router.machine.disks.map(({ slot, exported }) => [slot, exported]),
        [[id, true]],
      )
      router.faults.clear()
      for (const match of ['/disk set', '/disk remove', '/file remove']) {
        router.faults.arm({ kind: fault.kind === 'slow' ? 'drop-after' : fault.kind, match, milliseconds: 5 })
      }
      await provider.deleteVolume(id, soon())
      t.deepEqual([router.machine.disks, router.machine.files(), [...exporter.exports.keys()]], [[], [], []])
    })
  }
}

test('no space and a busy disk are told at once, and what was left is taken up by the next call', async (t) => {
  const { router, provider } = await lab(t)
  router.faults.arm({ kind: 'no-space', match: '/disk add' })
  await refused(t, provider.createVolume(wishOf('one'), soon()), status.RESOURCE_EXHAUSTED, /not enough space/)
  const { id } = await provider.createVolume(wishOf('one'), soon())
  router.faults.arm({ kind: 'busy', match: '/disk remove' })
  await refused(t, provider.deleteVolume(id, soon()), status.FAILED_PRECONDITION, /stop using it first.*tried again/)
  await provider.deleteVolume(id, soon())
  t.deepEqual(router.machine.files(), [])
})

test('five attempts and no more; then it is told that the router is out of reach', async (t) => {
  const { router, provider } = await lab(t)
  await provider.probe(soon())
  router.faults.arm({ kind: 'drop-before', times: 1000 })
  const before = router.scripts.length
  await refused(t, provider.createVolume(wishOf('one'), soon()), status.UNAVAILABLE, /5 attempts failed/)
  // One may end before it reaches the router: the connection of the one before is still closing.
  const attempts = router.scripts.length - before
  t.true(attempts > 1 && attempts <= 5)
})

test('the deadline of a call holds while the router is slow and while retries wait', async (t) => {
  const { router, provider } = await lab(t)
  await provider.probe(soon())
  router.faults.arm({ kind: 'slow', milliseconds: 3_000 })
  const began = Date.now()
  await refused(t, provider.createVolume(wishOf('one'), soon(100)), status.DEADLINE_EXCEEDED, /time/)
  t.true(Date.now() - began < 1_500)
  await provider.createVolume(wishOf('one'), soon())
})

test('versions: too old and without its package are told with what is needed', async (t) => {
  const old = await lab(t, { version: '7.20.8' })
  await refused(t, old.provider.probe(soon()), status.FAILED_PRECONDITION, /7\.20\.8.*7\.21 or later/)
  const bare = await lab(t, { storage: false })
  await refused(t, bare.provider.createVolume(wishOf('one'), soon()), status.FAILED_PRECONDITION, /rose-storage/)
  const elsewhere = await lab(t, {}, { basePath: '/raid5/csi' })
  await refused(t, elsewhere.provider.probe(soon()), status.FAILED_PRECONDITION, /no disk mounted at raid5/)
})

test('20 volumes at a time are 20, also by two replicas', async (t) => {
  const { router, provider, another } = await lab(t)
  const other = another()
  const names = Array.from({ length: 20 }, (_, at) => `volume ${at}`)
  await Promise.all(names.map((name, at) => (at % 2 ? provider : other).createVolume(wishOf(name), soon())))
  t.is(new Set(router.machine.disks.map(({ slot }) => slot)).size, 20)
  t.is(router.machine.disks.length, 20)
  t.is(router.machine.files().length, 20)
  t.is(router.mostChannels, 1)
})
