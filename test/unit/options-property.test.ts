/** Whatever a program gives for options is taken whole or refused by name: no other error, and nothing out of range gets through. */
import test from 'ava'
import fc from 'fast-check'
import type { IntegritySpec, SegmentSpec } from '../../src/native.ts'
import { checkOptions, type DeviceOptions, targetDeviceSpec } from '../../src/options.ts'
import { fault, file, memory, mirror, NativeTarget, nbd, nullTarget, stripe, zoned } from '../../src/targets.ts'

/** Values that a rule may have forgotten, and some that fit. */
const anything = fc.oneof(
  fc.anything({ withBigInt: true, withDate: true, withTypedArray: true, withNullPrototype: true }),
  fc.integer({ min: -2, max: 5000 }),
  fc.constantFrom(
    512,
    4096,
    65536,
    '64KiB',
    '1.5G',
    '10GB',
    'auto',
    'copy',
    'zero-copy',
    'auto-zero-copy',
    'reissue',
    'always',
    true,
    false,
    2 ** 53,
  ),
)
const names = 'size id queues depth blockSize physicalBlockSize maxIoBytes readOnly rotational recovery dataPath zeroCopyFallback'
  .concat(
    ' sharedMemory dmaAlignment maxSegments maxSegmentSize segmentBoundary threads perIo batch fixedFiles preempt partitionScan cpus requestTimeoutMs backendOptions closeOnSignal signal',
  )
  .split(' ')
/** With some of its options in it, or anything else. */
const integrity = fc.oneof(
  anything,
  fc.dictionary(
    fc.constantFrom('size', 'csum', 'piOffset', 'tagSize', 'reftag', 'capable', 'stranger'),
    fc.oneof(anything, fc.constantFrom(8, 't10dif', 'nvme')),
    {
      maxKeys: 3,
    },
  ),
)
const options = fc
  .tuple(
    fc.dictionary(fc.constantFrom(...names, 'stranger'), anything, { maxKeys: 4 }),
    fc.option(integrity, { freq: 8 }),
    fc.option(fc.boolean(), { freq: 8 }),
  )
  .map(([given, integrity, unprivileged]) => ({
    ...given,
    ...(integrity !== null && { integrity }),
    ...(unprivileged !== null && { unprivileged }),
  }))

/** The value, or null when it was refused as it should be. */
function orRefused<T>(call: () => T): T | null {
  try {
    return call()
  } catch (error) {
    const { code } = error as { code?: string }
    const isMisuse = error instanceof TypeError || error instanceof RangeError
    if (isMisuse && ['ERR_INVALID_ARG_TYPE', 'ERR_INVALID_ARG_VALUE', 'ERR_OUT_OF_RANGE'].includes(code ?? '')) return null
    throw error
  }
}

const isWhole = (value: number, min: number, max: number): boolean => Number.isSafeInteger(value) && value >= min && value <= max

const isShape = ({ maxCount, maxBytes, boundaryBytes }: SegmentSpec): boolean =>
  isWhole(maxCount, 1, 65_535) &&
  isWhole(maxBytes, 4096, 2 ** 32 - 1) &&
  isWhole(boundaryBytes, 4096, 2 ** 32) &&
  2 ** 32 % boundaryBytes === 0

const isIntegrity = ({ metadataBytes, piOffsetBytes, tagBytes }: IntegritySpec): boolean =>
  isWhole(metadataBytes, 1, 255) && isWhole(piOffsetBytes, 0, metadataBytes) && isWhole(tagBytes, 0, metadataBytes)

test('any options of a device are taken or refused', (t) => {
  let taken = 0
  const property = fc.property(options, (given) => {
    const backend = memory({ size: '64MiB' })
    const spec = orRefused(() => targetDeviceSpec(checkOptions({ backend, ...given } as DeviceOptions), backend.spec))
    if (spec === null) return true
    taken += 1
    return (
      isWhole(spec.queues, 1, 4096) &&
      isWhole(spec.depth, 1, 4096) &&
      isWhole(spec.maxIoBytes, 4096, 32 << 20) &&
      isWhole(spec.sizeBytes ?? 0, 512, 2 ** 53) &&
      (spec.sizeBytes ?? 0) % (spec.logicalBlockBytes ?? 512) === 0 &&
      (spec.threads === null || isWhole(spec.threads, 1, 4096)) &&
      isWhole(spec.requestDeadlineMs, 1, 29_999) &&
      (spec.dmaAlignBytes === null || (isWhole(spec.dmaAlignBytes, 2, 4096) && 4096 % spec.dmaAlignBytes === 0)) &&
      (spec.segments === null || isShape(spec.segments)) &&
      spec.sharedMemory.every(({ path, readOnly }) => path.startsWith('/') && typeof readOnly === 'boolean') &&
      (spec.integrity === null || isIntegrity(spec.integrity)) &&
      // What would be the kernel's reason to kill the process.
      (!spec.unprivileged || (spec.recovery === 'off' && spec.integrity === null))
    )
  })
  fc.assert(property, { numRuns: 20_000 })
  t.true(taken > 500, `${taken} were taken`)
})

const targets: Record<string, { make: (given: never) => NativeTarget; names: string[] }> = {
  memory: { make: memory, names: ['size'] },
  file: { make: file, names: ['path', 'size', 'direct', 'create', 'readOnly'] },
  stripe: { make: stripe, names: ['paths', 'chunk', 'size', 'direct', 'create'] },
  mirror: { make: mirror, names: ['paths', 'size', 'readOnly'] },
  null: { make: nullTarget, names: ['size'] },
  zoned: { make: zoned, names: ['path', 'size', 'zoneSize', 'zoneCapacity', 'conventionalZones', 'maxOpen', 'maxActive'] },
  nbd: {
    make: (given: object) => nbd('nbds://host/disk', given),
    names: ['size', 'readOnly', 'patienceMs', 'requestTimeoutMs', 'tls'],
  },
  'nbd URI': { make: (given?: { uri?: string }) => nbd(given?.uri as string), names: ['uri'] },
  fault: {
    make: (given: object) => fault(memory(), given),
    names: ['delayMs', 'errorRate', 'errorOps', 'errorRange', 'tornWriteRate', 'seed', 'dieAt', 'dieAfter'],
  },
}

for (const [name, { make, names }] of Object.entries(targets)) {
  test(`any options of ${name} are taken or refused`, (t) => {
    const paths = fc.array(fc.oneof(fc.string(), fc.constant('disk.img')), { maxLength: 4 })
    const given = fc.dictionary(fc.constantFrom(...names), fc.oneof(anything, paths, fc.record({ begin: anything, end: anything })), {
      maxKeys: 3,
    })
    fc.assert(
      fc.property(fc.oneof(given, anything), (given) => {
        const target = orRefused(() => make(given as never))
        return target === null || target instanceof NativeTarget
      }),
      { numRuns: 4000 },
    )
    t.pass()
  })
}
