import { inspect } from 'node:util'
import test from 'ava'
import { checkOptions, type DeviceOptions, targetDeviceSpec } from '../../src/options.ts'
import { zoned } from '../../src/targets.ts'
import type { ZonedOptions } from '../../src/zones.ts'

function spec(zones: ZonedOptions, options: Partial<DeviceOptions> = {}): ReturnType<typeof targetDeviceSpec> {
  const target = zoned(zones)
  return targetDeviceSpec(checkOptions({ backend: target, ...options }), target.spec)
}

test('a zoned target has a size and zones of 64 MiB, and no limits', (t) => {
  t.like(spec({ size: '1GiB' }), {
    sizeBytes: 2 ** 30,
    target: {
      kind: 'zoned',
      paths: [],
      zoned: { zoneBytes: 2 ** 26, zoneCapacityBytes: null, conventionalZones: 0, maxOpenZones: 0, maxActiveZones: 0 },
    },
  })
  const all = { zoneSize: '1MiB', zoneCapacity: '768KiB', conventionalZones: 3, maxOpen: 4, maxActive: 5 }
  t.like(spec({ path: '/tmp/disk', ...all }, { size: '16MiB', dataPath: 'user-copy', threads: 1 }), {
    sizeBytes: 2 ** 24,
    target: {
      paths: ['/tmp/disk'],
      sizeBytes: 2 ** 24,
      zoned: { zoneBytes: 2 ** 20, zoneCapacityBytes: 786_432, conventionalZones: 3, maxOpenZones: 4, maxActiveZones: 5 },
    },
  })
})

const size = '16MiB'
const zoneSize = '1MiB'
for (const [zones, options, code, message] of [
  [{}, {}, 'ERR_INVALID_ARG_TYPE', /^size must be given/],
  [5, {}, 'ERR_INVALID_ARG_TYPE', /^zoned options must be an object/],
  [{ size, path: 5 }, {}, 'ERR_INVALID_ARG_TYPE', /^zoned.path must be a string/],
  [{ size, path: '' }, {}, 'ERR_INVALID_ARG_VALUE', /^zoned.path must be/],
  [{ size, zoneSize: '3MiB' }, {}, 'ERR_OUT_OF_RANGE', /^zoneSize must be a power of two from 64 KiB to 1 TiB, got '3MiB'/],
  [{ size, zoneSize: '32KiB' }, {}, 'ERR_OUT_OF_RANGE', /^zoneSize/],
  [{ size, zoneSize: '2TiB' }, {}, 'ERR_OUT_OF_RANGE', /^zoneSize/],
  [{ size, zoneSize, zoneCapacity: '2MiB' }, {}, 'ERR_OUT_OF_RANGE', /^zoneCapacity must be a multiple of 4096 up to zoneSize, 1048576/],
  [{ size, zoneSize, zoneCapacity: 1000 }, {}, 'ERR_OUT_OF_RANGE', /^zoneCapacity/],
  [{ size, zoneSize, conventionalZones: 16 }, {}, 'ERR_OUT_OF_RANGE', /^conventionalZones must be below the number of zones, 16, got 16/],
  [{ size, zoneSize, conventionalZones: -1 }, {}, 'ERR_OUT_OF_RANGE', /^conventionalZones must be a whole number/],
  [{ size, zoneSize, maxOpen: '1' }, {}, 'ERR_INVALID_ARG_TYPE', /^maxOpen must be a number/],
  [{ size, zoneSize, maxOpen: 17 }, {}, 'ERR_OUT_OF_RANGE', /^maxOpen must be at most the number of zones, 16/],
  [{ size, zoneSize, maxActive: 17 }, {}, 'ERR_OUT_OF_RANGE', /^maxActive must be at most/],
  [{ size, zoneSize, maxOpen: 3, maxActive: 2 }, {}, 'ERR_OUT_OF_RANGE', /^maxActive must be 0 or at least maxOpen, 3, got 2/],
  [{ size: '15MiB', zoneSize: '2MiB' }, {}, 'ERR_OUT_OF_RANGE', /^size must be a multiple of the zone size 2097152/],
  [{ size, zoneSize }, { maxIoBytes: 4096, size: '1GiB' }, 'ERR_OUT_OF_RANGE', /^maxIoBytes must be at least 64 for each of 1024 zones/],
  [{ size, zoneSize }, { queues: 2 }, 'ERR_OUT_OF_RANGE', /^queues must be 1 for a zoned target/],
  [{ size, zoneSize }, { perIo: true, threads: 2 }, 'ERR_INVALID_ARG_VALUE', /^perIo must be false for a zoned target/],
  [{ size, zoneSize }, { batch: true }, 'ERR_INVALID_ARG_VALUE', /^batch must be false for a zoned target/],
  [{ size, zoneSize }, { recovery: 'requeue' }, 'ERR_INVALID_ARG_VALUE', /^recovery must be 'off' for a zoned target in memory/],
  [{ size, zoneSize, path: 'disk' }, { recovery: 'reissue' }, 'ERR_INVALID_ARG_VALUE', /^recovery must be 'off', 'requeue' or 'fail-io'/],
  [{ size, zoneSize }, { dataPath: 'copy' }, 'ERR_INVALID_ARG_VALUE', /^dataPath must be 'auto' or 'user-copy' for a zoned target/],
] as [ZonedOptions, Partial<DeviceOptions>, string, RegExp][]) {
  test(`zones ${inspect(zones)} of a device ${inspect(options)} are refused with ${code}`, (t) => {
    t.throws(() => spec(zones, options), { code, message })
  })
}
