import { inspect } from 'node:util'
import test from 'ava'
import { abilitiesOf } from '../../src/backend.ts'
import { checkIntegrity, type IntegrityOptions } from '../../src/integrity.ts'
import { backendDeviceSpec, checkOptions, type DeviceOptions, targetDeviceSpec } from '../../src/options.ts'
import { memory, zoned } from '../../src/targets.ts'

test('the defaults are those of the checksum', (t) => {
  const none = { piOffsetBytes: 0, tagBytes: 0, refTag: false, capable: false }
  t.deepEqual(checkIntegrity({ csum: 't10dif' }), { metadataBytes: 8, checksum: 't10dif', ...none })
  t.deepEqual(checkIntegrity({ csum: 'nvme' }), { metadataBytes: 16, checksum: 'nvme', ...none })
  t.deepEqual(checkIntegrity({ size: 5, tagSize: 5 }), { metadataBytes: 5, checksum: 'none', ...none, tagBytes: 5 })
  const all = { size: 64, csum: 'ip', piOffset: 56, tagSize: 2, reftag: true, capable: true } as const
  t.deepEqual(checkIntegrity(all), { metadataBytes: 64, checksum: 'ip', piOffsetBytes: 56, tagBytes: 2, refTag: true, capable: true })
})

for (const [options, code, message] of [
  [5, 'ERR_INVALID_ARG_TYPE', /^integrity must be an object/],
  [{}, 'ERR_INVALID_ARG_TYPE', /^integrity.size must be a number/],
  [{ sise: 8 }, 'ERR_INVALID_ARG_VALUE', /^unknown option 'integrity.sise'/],
  [{ size: 0 }, 'ERR_OUT_OF_RANGE', /^integrity.size must be a whole number from 1 to 255, got 0/],
  [{ size: 256 }, 'ERR_OUT_OF_RANGE', /^integrity.size/],
  [{ csum: 'md5' }, 'ERR_INVALID_ARG_VALUE', /^integrity.csum must be 't10dif', 'ip' or 'nvme', got 'md5'/],
  [{ csum: 1 }, 'ERR_INVALID_ARG_TYPE', /^integrity.csum/],
  [{ csum: 'nvme', size: 8 }, 'ERR_OUT_OF_RANGE', /^integrity.size must be a whole number from 16 to 255, got 8/],
  [{ csum: 'ip', piOffset: 1 }, 'ERR_OUT_OF_RANGE', /^integrity.piOffset must be a whole number from 0 to 0, got 1/],
  [{ csum: 'ip', tagSize: 7 }, 'ERR_OUT_OF_RANGE', /^integrity.tagSize must be a whole number from 0 to 6/],
  [{ csum: 'nvme', reftag: true, tagSize: 3 }, 'ERR_OUT_OF_RANGE', /^integrity.tagSize must be a whole number from 0 to 2/],
  [{ size: 8, reftag: true }, 'ERR_INVALID_ARG_VALUE', /^integrity.reftag must be false without a checksum/],
  [{ csum: 'ip', capable: 1 }, 'ERR_INVALID_ARG_TYPE', /^integrity.capable must be a boolean/],
] as [IntegrityOptions, string, RegExp][]) {
  test(`integrity ${inspect(options)} is refused with ${code}`, (t) => {
    t.throws(() => checkIntegrity(options), { code, message })
  })
}

test('integrity data is for memory, null and file targets, by user copy', (t) => {
  const integrity = { csum: 't10dif' } as const
  const refused = (backend: ReturnType<typeof memory>, options: Partial<DeviceOptions>, message: RegExp): void => {
    t.throws(() => targetDeviceSpec(checkOptions({ backend, integrity, ...options }), backend.spec), { message })
  }
  refused(zoned({ size: '1GiB' }), {}, /^integrity must be left out unless the target is nullTarget, memory or file, got 'zoned'/)
  refused(memory({ size: '1MiB' }), { dataPath: 'get-data' }, /^dataPath must be 'auto' or 'user-copy' with integrity/)
  const backend = { size: 4096, read() {} }
  const message = /^integrity must be left out .*got 'a JavaScript backend'/
  t.throws(() => backendDeviceSpec(checkOptions({ backend, integrity }), abilitiesOf(backend)), { message })
})
