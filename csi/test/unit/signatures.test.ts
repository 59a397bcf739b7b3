import test from 'ava'
import { probedRanges } from '../../src/node/signatures.ts'

const KIB = 1024
const MIB = 1024 * KIB
const GIB = 1024 * MIB

/** Where something would be that must never be formatted. */
const PLACES: Record<string, (bytes: number) => number> = {
  'an MS-DOS partition table': () => 510,
  'a GPT': () => 512,
  'a superblock of ext': () => 1080,
  'a superblock of btrfs': () => 64 * KIB + 64,
  'a ZFS label': () => 128 * KIB,
  'the end of the first MiB': () => MIB - 1,
  'a copy of the superblock of an ext with blocks of 1 KiB': () => 8 * MIB + KIB,
  'a copy of the superblock of an ext with blocks of 4 KiB': () => 128 * MIB,
  'the next copy of that': () => 384 * MIB,
  'the second superblock of btrfs': () => 64 * MIB,
  'the second allocation group of xfs': (bytes) => bytes / 4,
  'the third': (bytes) => bytes / 2,
  'the last': (bytes) => (bytes / 4) * 3,
  'a ZFS label at the end': (bytes) => bytes - 256 * KIB,
  'an md superblock 0.90': (bytes) => bytes - (bytes % (64 * KIB)) - 64 * KIB,
  'the second GPT': (bytes) => bytes - 512,
  'the last byte': (bytes) => bytes - 1,
}

for (const bytes of [400 * MIB, 512 * GIB, GIB + 512]) {
  for (const [what, at] of Object.entries(PLACES)) {
    test(`of ${bytes} bytes, the place of ${what} is read`, (t) => {
      const place = at(bytes)
      t.true(probedRanges(bytes).some(({ offset, length }) => offset <= place && place < offset + length))
    })
  }
  test(`of ${bytes} bytes, all that is read is within, and begins at a whole block`, (t) => {
    for (const { offset, length } of probedRanges(bytes)) {
      t.is(offset % (4 * KIB), 0)
      t.is(length % 512, 0)
      t.true(length > 0 && offset + length <= bytes)
    }
  })
}

test('the third superblock of btrfs is read where a disk has one', (t) => {
  t.true(probedRanges(512 * GIB).some(({ offset }) => offset === 256 * GIB))
  t.false(probedRanges(GIB).some(({ offset }) => offset >= GIB))
})
