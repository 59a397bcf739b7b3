import { status } from '@grpc/grpc-js'
import test from 'ava'
import { fits, isReadOnly, isSingleWriter, requiredAccess, requiredPath, sizeOf, unsupported } from '../../src/fields.ts'
import { VolumeCapability_AccessMode_Mode as Mode, type VolumeCapability } from '../../src/generated/csi.ts'
import { pageOf } from '../../src/paging.ts'
import { blockAccess, mountAccess } from '../support/client.ts'

const MIB = 1n << 20n

test('a size is the least that is allowed, in whole MiB', (t) => {
  t.is(sizeOf(undefined), 1024n * MIB)
  t.is(sizeOf({ requiredBytes: 1n, limitBytes: 0n }), MIB)
  t.is(sizeOf({ requiredBytes: 5n * MIB + 1n, limitBytes: 6n * MIB }), 6n * MIB)
  t.is(sizeOf({ requiredBytes: 0n, limitBytes: 7n * MIB + 9n }), 7n * MIB)
  t.throws(() => sizeOf({ requiredBytes: 5n * MIB + 1n, limitBytes: 5n * MIB + 2n }), { message: /whole MiB/ })
  t.throws(() => sizeOf({ requiredBytes: 2n, limitBytes: 1n }), { message: /at least 2 bytes and at most 1/ })
  t.throws(() => sizeOf({ requiredBytes: -1n, limitBytes: 0n }), { message: /negative/ })
})

test('what exists fits a range or does not', (t) => {
  t.true(fits(5n, undefined))
  t.true(fits(5n, { requiredBytes: 5n, limitBytes: 5n }))
  t.false(fits(5n, { requiredBytes: 6n, limitBytes: 0n }))
  t.false(fits(5n, { requiredBytes: 0n, limitBytes: 4n }))
})

test('a path that leads elsewhere is refused', (t) => {
  t.is(requiredPath('target_path', '/var/lib/x..y/mount'), '/var/lib/x..y/mount')
  for (const path of ['', 'relative', '/a/../b', '/a/..', '/a\0b'])
    t.throws(() => requiredPath('target_path', path), { message: /target_path/ })
})

test('each access that is not supported says why', (t) => {
  t.is(unsupported(mountAccess('xfs')), null)
  t.is(unsupported(blockAccess()), null)
  t.regex(unsupported(mountAccess('ntfs')) ?? '', /"ntfs" is not one of/)
  for (const mode of [0, 3, 4, 5] as const) t.regex(unsupported(blockAccess(mode)) ?? '', /one node at a time/)
  t.regex(unsupported({ accessType: undefined, accessMode: { mode: 1 } }) ?? '', /access_type is missing/)
})

test('pages have every entry once, whatever is deleted in between', (t) => {
  const all = ['d', 'a', 'c', 'b', 'e'].map((id) => ({ id }))
  const first = pageOf(all, { maxEntries: 2, startingToken: '' }, () => true)
  t.deepEqual(first, { entries: [{ id: 'a' }, { id: 'b' }], nextToken: 'b' })
  const rest = pageOf(
    all.filter(({ id }) => id !== 'b'),
    { maxEntries: 0, startingToken: first.nextToken },
    () => true,
  )
  t.deepEqual(rest, { entries: [{ id: 'c' }, { id: 'd' }, { id: 'e' }], nextToken: '' })
  t.is(pageOf(all, { maxEntries: 5, startingToken: '' }, () => true).nextToken, '')
  t.throws(() => pageOf(all, { maxEntries: 0, startingToken: 'x' }, () => false), { code: status.ABORTED } as never)
})

test('a group is a number, which goes with the mount', (t) => {
  const withGroup = (volumeMountGroup: string): VolumeCapability => ({
    accessType: { $case: 'mount', value: { fsType: '', mountFlags: [], volumeMountGroup } },
    accessMode: { mode: Mode.SINGLE_NODE_WRITER },
  })
  t.like(requiredAccess(withGroup('4321')), { group: 4321, filesystem: 'ext4' })
  t.like(requiredAccess(withGroup('')), { group: null })
  for (const group of ['wheel', '-1', '0x10', '1 ']) t.regex(unsupported(withGroup(group)) ?? '', /is not a group's number/)
})

test('of the modes of one node, one only reads, and one has a single writer', (t) => {
  const { SINGLE_NODE_WRITER, SINGLE_NODE_READER_ONLY, SINGLE_NODE_SINGLE_WRITER, SINGLE_NODE_MULTI_WRITER } = Mode
  const accesses = [SINGLE_NODE_WRITER, SINGLE_NODE_READER_ONLY, SINGLE_NODE_SINGLE_WRITER, SINGLE_NODE_MULTI_WRITER].map((mode) =>
    requiredAccess(mountAccess('ext4', mode)),
  )
  t.deepEqual(accesses.map(isReadOnly), [false, true, false, false])
  t.deepEqual(accesses.map(isSingleWriter), [false, false, true, false])
})
