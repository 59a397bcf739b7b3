import { once } from 'node:events'
import { resolve } from 'node:path'
import { inspect } from 'node:util'
import test from 'ava'
import { abilitiesOf, type Backend } from '../../src/backend.ts'
import type { DeviceInfo } from '../../src/info.ts'
import { slotCount } from '../../src/layout.ts'
import {
  backendDeviceSpec,
  checkOptions,
  checkRecoverOptions,
  type DeviceOptions,
  type RecoverOptions,
  targetDeviceSpec,
} from '../../src/options.ts'
import { fault, file, memory, mirror, type NbdOptions, nbd, nullTarget, stripe, type WorkerBackend, worker } from '../../src/targets.ts'

const backend: Backend = { read: () => {} }
const check = (options: object): ReturnType<typeof checkOptions> => checkOptions({ backend, ...options } as DeviceOptions)
const spec = (of: Partial<Backend>, options: object = {}): ReturnType<typeof backendDeviceSpec> => {
  const whole = { ...backend, ...of }
  return backendDeviceSpec(check({ backend: whole, ...options }), abilitiesOf(whole))
}

test('the defaults', (t) => {
  t.like(check({}), {
    backend,
    sizeBytes: null,
    id: null,
    queues: 1,
    depth: 128,
    blockSize: null,
    physicalBlockSize: null,
    maxIoBytes: 512 * 1024,
    readOnly: null,
    rotational: false,
    recovery: 'off',
    dataPath: 'auto',
    zeroCopyFallback: 'on',
    sharedMemory: [],
    threads: null,
    perIo: false,
    batch: false,
    fixedFiles: true,
    preempt: null,
    partitionScan: true,
    dmaAlignBytes: null,
    segments: null,
    unprivileged: false,
    integrity: null,
    cpus: null,
    requestTimeoutMs: 20_000,
    closeOnSignal: true,
    signal: null,
  })
})

test('files of memory become absolute, and are written unless told otherwise', (t) => {
  const { dataPath, sharedMemory } = check({ sharedMemory: ['/a/../b', { path: '/c', readOnly: true }] })
  t.is(dataPath, 'shmem')
  t.deepEqual(sharedMemory, [
    { path: '/b', readOnly: false, number: null, fileId: null },
    { path: '/c', readOnly: true, number: null, fileId: null },
  ])
  t.deepEqual(check({ dataPath: 'shmem' }).sharedMemory, [])
})

for (const [options, code, message] of [
  [{ backend: undefined }, 'ERR_INVALID_ARG_TYPE', /^backend must be .* path of a module$/],
  [{ backend: 5 }, 'ERR_INVALID_ARG_TYPE', /^backend must be/],
  [{ backend: '' }, 'ERR_INVALID_ARG_VALUE', /^backend module must be/],
  [{ bogus: 1 }, 'ERR_INVALID_ARG_VALUE', /^unknown option 'bogus'; the options are backend, size/],
  [{ size: '1 parsec' }, 'ERR_INVALID_ARG_VALUE', /^size must be/],
  [{ id: -1 }, 'ERR_OUT_OF_RANGE', /^id must be a whole number from 0 to 1048575, got -1/],
  [{ id: '1' }, 'ERR_INVALID_ARG_TYPE', /^id must be a number, got '1'/],
  [{ queues: 0 }, 'ERR_OUT_OF_RANGE', /^queues must be a whole number from 1 to 4096, got 0/],
  [{ queues: 1.5 }, 'ERR_OUT_OF_RANGE', /^queues/],
  [{ queues: 4097 }, 'ERR_OUT_OF_RANGE', /^queues/],
  [{ depth: 0 }, 'ERR_OUT_OF_RANGE', /^depth must be a whole number from 1 to 4096/],
  [{ depth: 4097 }, 'ERR_OUT_OF_RANGE', /^depth/],
  [{ depth: Number.NaN }, 'ERR_OUT_OF_RANGE', /^depth/],
  [{ depth: '8' }, 'ERR_INVALID_ARG_TYPE', /^depth/],
  [{ blockSize: 256 }, 'ERR_OUT_OF_RANGE', /^blockSize must be 512, 1024, 2048 or 4096, got 256/],
  [{ blockSize: 8192 }, 'ERR_OUT_OF_RANGE', /^blockSize/],
  [{ physicalBlockSize: 3072 }, 'ERR_OUT_OF_RANGE', /^physicalBlockSize must be a power of two/],
  [{ physicalBlockSize: 256 }, 'ERR_OUT_OF_RANGE', /^physicalBlockSize/],
  [{ maxIoBytes: 2048 }, 'ERR_OUT_OF_RANGE', /^maxIoBytes must be a multiple of 4096 from 4096 to 33554432/],
  [{ maxIoBytes: '33MiB' }, 'ERR_OUT_OF_RANGE', /^maxIoBytes/],
  [{ maxIoBytes: 6000 }, 'ERR_OUT_OF_RANGE', /^maxIoBytes/],
  [{ readOnly: 1 }, 'ERR_INVALID_ARG_TYPE', /^readOnly must be a boolean, got 1/],
  [{ rotational: 'yes' }, 'ERR_INVALID_ARG_TYPE', /^rotational/],
  [{ recovery: 'on' }, 'ERR_INVALID_ARG_VALUE', /^recovery must be one of 'off', 'requeue', 'reissue', 'fail-io', got 'on'/],
  [{ unprivileged: 1 }, 'ERR_INVALID_ARG_TYPE', /^unprivileged must be a boolean, got 1/],
  [{ recovery: true }, 'ERR_INVALID_ARG_TYPE', /^recovery/],
  [{ dataPath: 'fast' }, 'ERR_INVALID_ARG_VALUE', /^dataPath must be one of 'auto', 'copy', 'get-data'/],
  [{ threads: 2 }, 'ERR_OUT_OF_RANGE', /^threads must be a whole number from 1 to 1, the number of queues, unless perIo is set, got 2/],
  [{ threads: 5000, perIo: true }, 'ERR_OUT_OF_RANGE', /^threads must be a whole number from 1 to 4096, got 5000/],
  [{ threads: '2' }, 'ERR_INVALID_ARG_TYPE', /^threads/],
  [{ perIo: 1 }, 'ERR_INVALID_ARG_TYPE', /^perIo must be a boolean/],
  [{ sharedMemory: ['/x', { path: '/x', readOnly: true }] }, 'ERR_INVALID_ARG_VALUE', /^sharedMemory must be of files that are given once/],
  [{ sharedMemory: 5 }, 'ERR_INVALID_ARG_TYPE', /^sharedMemory must be the path of a file/],
  [{ sharedMemory: { path: '/x', readOnly: 1 } }, 'ERR_INVALID_ARG_TYPE', /^sharedMemory.readOnly must be a boolean/],
  [{ sharedMemory: '/x', dataPath: 'copy' }, 'ERR_INVALID_ARG_VALUE', /^sharedMemory must be left out unless/],
  [{ dmaAlignment: '512' }, 'ERR_INVALID_ARG_TYPE', /^dmaAlignment must be a number/],
  [{ dmaAlignment: 1 }, 'ERR_OUT_OF_RANGE', /^dmaAlignment must be a power of two from 2 to 4096/],
  [{ dmaAlignment: 520 }, 'ERR_OUT_OF_RANGE', /^dmaAlignment/],
  [{ dmaAlignment: 8192 }, 'ERR_OUT_OF_RANGE', /^dmaAlignment/],
  [{ maxSegments: 0 }, 'ERR_OUT_OF_RANGE', /^maxSegments must be a whole number from 1 to 65535/],
  [{ maxSegments: '4' }, 'ERR_INVALID_ARG_TYPE', /^maxSegments/],
  [{ maxSegmentSize: 4095 }, 'ERR_OUT_OF_RANGE', /^maxSegmentSize must be 4096 to 4294967295 bytes/],
  [{ maxSegmentSize: '4GiB' }, 'ERR_OUT_OF_RANGE', /^maxSegmentSize/],
  [{ segmentBoundary: '2KiB' }, 'ERR_OUT_OF_RANGE', /^segmentBoundary must be a power of two from 4096 to 4294967296/],
  [{ segmentBoundary: 12_288 }, 'ERR_OUT_OF_RANGE', /^segmentBoundary/],
  [{ batch: true, dataPath: 'get-data' }, 'ERR_INVALID_ARG_VALUE', /^batch must be false with dataPath 'get-data'/],
  [{ batch: true, perIo: true }, 'ERR_INVALID_ARG_VALUE', /^batch must be false with perIo/],
  [{ fixedFiles: 'no' }, 'ERR_INVALID_ARG_TYPE', /^fixedFiles/],
  [{ preempt: 'no' }, 'ERR_INVALID_ARG_TYPE', /^preempt/],
  [{ partitionScan: 0 }, 'ERR_INVALID_ARG_TYPE', /^partitionScan/],
  [
    { zeroCopyFallback: true, dataPath: 'zero-copy' },
    'ERR_INVALID_ARG_VALUE',
    /^zeroCopyFallback must be left out, or false, unless dataPath is 'auto' or 'auto-zero-copy'/,
  ],
  [{ zeroCopyFallback: 'on', dataPath: 'auto-zero-copy' }, 'ERR_INVALID_ARG_TYPE', /^zeroCopyFallback must be a boolean or 'always'/],
  [{ cpus: 1 }, 'ERR_INVALID_ARG_TYPE', /^cpus/],
  [{ cpus: [] }, 'ERR_INVALID_ARG_VALUE', /^cpus/],
  [{ cpus: [-1] }, 'ERR_OUT_OF_RANGE', /^cpus/],
  [{ requestTimeoutMs: 0 }, 'ERR_OUT_OF_RANGE', /^requestTimeoutMs must be a whole number from 1 to 29999/],
  [{ requestTimeoutMs: 30_000 }, 'ERR_OUT_OF_RANGE', /^requestTimeoutMs/],
  [{ backendOptions: {} }, 'ERR_INVALID_ARG_VALUE', /^backendOptions must be absent unless/],
  [{ backend: './x.ts', backendOptions: { f: () => {} } }, 'ERR_INVALID_ARG_VALUE', /^worker.options must be plain data/],
  [{ backend: './x.ts', backendOptions: [] }, 'ERR_INVALID_ARG_TYPE', /^worker.options/],
  [{ closeOnSignal: 0 }, 'ERR_INVALID_ARG_TYPE', /^closeOnSignal/],
  [{ signal: {} }, 'ERR_INVALID_ARG_TYPE', /^signal must be an AbortSignal/],
] as [object, string, RegExp][]) {
  test(`${inspect(options, { breakLength: Infinity })} is refused with ${code}`, (t) => {
    t.throws(() => check(options), { code, message })
  })
}

for (const [options, of, code, message] of [
  [{}, {}, 'ERR_INVALID_ARG_TYPE', /^size must be given/],
  [{ size: 0 }, {}, 'ERR_OUT_OF_RANGE', /^size must be a multiple of the block size 512, and not 0, got 0/],
  [{ size: 1000 }, {}, 'ERR_OUT_OF_RANGE', /^size/],
  [{ size: 6144, blockSize: 4096 }, {}, 'ERR_OUT_OF_RANGE', /^size must be a multiple of the block size 4096/],
  [{}, { size: 6144, blockSize: 4096 }, 'ERR_OUT_OF_RANGE', /^size must be a multiple of the block size 4096/],
  [{ size: 4096 }, { blockSize: 100 }, 'ERR_OUT_OF_RANGE', /^blockSize/],
  [{ size: 4096, blockSize: 4096, physicalBlockSize: 512 }, {}, 'ERR_OUT_OF_RANGE', /^physicalBlockSize must be at least/],
  [{ size: 4096, readOnly: false }, {}, 'ERR_INVALID_ARG_VALUE', /^readOnly must be true for a backend without a write/],
  [{ size: 4096, dataPath: 'auto-zero-copy' }, {}, 'ERR_INVALID_ARG_VALUE', /^dataPath/],
  [{ size: 4096, unprivileged: true, recovery: 'requeue' }, {}, 'ERR_INVALID_ARG_VALUE', /^recovery must be 'off' for an unprivileged/],
  [{ size: 4096, perIo: true }, {}, 'ERR_INVALID_ARG_VALUE', /^perIo must be left out for a JavaScript backend/],
  [{ size: 4096, batch: true }, {}, 'ERR_INVALID_ARG_VALUE', /^batch must be left out/],
  [{ size: 4096, threads: 1 }, {}, 'ERR_INVALID_ARG_VALUE', /^threads must be left out/],
  [{ size: 4096, fixedFiles: false }, {}, 'ERR_INVALID_ARG_VALUE', /^fixedFiles must be left out/],
  [{ size: 4096, preempt: false }, {}, 'ERR_INVALID_ARG_VALUE', /^preempt must be left out/],
  [
    { size: 4096, depth: 4096, maxIoBytes: '32MiB' },
    {},
    'ERR_OUT_OF_RANGE',
    /^depth × maxIoBytes must be at most 4294967296 bytes .*smaller depth/,
  ],
  [{ size: 4096 }, { read: 5 }, 'ERR_INVALID_ARG_TYPE', /^backend.read must be a function/],
  [{ size: 4096 }, { write: 5 }, 'ERR_INVALID_ARG_TYPE', /^backend.write must be a function or absent/],
  [{ size: 4096 }, { open: 5 }, 'ERR_INVALID_ARG_TYPE', /^backend.open/],
  [{}, { size: 'x' }, 'ERR_INVALID_ARG_VALUE', /^backend.size/],
  [{ size: 4096 }, { supports: { fua: 'yes' } }, 'ERR_INVALID_ARG_VALUE', /^backend.supports.fua must be 'flush' or 'native'/],
  [{ size: 4096 }, { supports: { fua: 'native' } }, 'ERR_INVALID_ARG_VALUE', /^backend.supports.fua must be absent without a flush/],
] as [object, object, string, RegExp][]) {
  test(`options ${inspect(options)} with a backend of ${inspect(of)} are refused with ${code}`, (t) => {
    t.throws(() => spec(of as Partial<Backend>, options), { code, message })
  })
}

test('the methods of a backend decide what the device can do', (t) => {
  const all = { write() {}, flush() {}, discard() {}, writeZeroes() {} }
  const size = '1MiB'
  t.like(spec({}, { size }), { readOnly: true, volatileCache: false, fua: false, discard: false, writeZeroes: false })
  t.like(spec(all, { size }), { readOnly: false, volatileCache: true, fua: true, discard: true, writeZeroes: true })
  t.like(spec({ write() {} }, { size }), { readOnly: false, volatileCache: false, fua: false, discard: false })
  t.like(spec(all, { size, readOnly: true }), { readOnly: true, volatileCache: false, fua: false, discard: false, writeZeroes: false })
  t.like(spec({ discard() {} }, { size }), { discard: false })
})

test('options win over what the backend says of itself', (t) => {
  const own = { size: '1MiB', blockSize: 4096 }
  t.like(spec(own), { sizeBytes: 2 ** 20, logicalBlockBytes: 4096, physicalBlockBytes: 4096 })
  t.like(spec(own, { size: '2MiB', blockSize: 512, physicalBlockSize: 8192 }), {
    sizeBytes: 2 ** 21,
    logicalBlockBytes: 512,
    physicalBlockBytes: 8192,
  })
})

test('abilities are found on a prototype too', (t) => {
  class Store implements Backend {
    size = 4096
    read(): void {}
    write(): void {}
    flush(): void {}
  }
  t.like(abilitiesOf(new Store()), { sizeBytes: 4096, write: true, flush: true, discard: false, sync: false })
})

test('a native target says what it can by itself', (t) => {
  const of = (target: ReturnType<typeof memory>, options = {}): ReturnType<typeof targetDeviceSpec> =>
    targetDeviceSpec(check({ backend: target, ...options }), target.spec)
  t.like(of(memory({ size: '1GiB' })), { sizeBytes: 2 ** 30, logicalBlockBytes: 512, target: { kind: 'mem', sizeBytes: 2 ** 30 } })
  t.like(of(nullTarget(), { size: '1GiB' }), { sizeBytes: 2 ** 30, target: { kind: 'null', sizeBytes: 2 ** 30 } })
  t.like(of(file('/x')), {
    sizeBytes: null,
    logicalBlockBytes: null,
    readOnly: false,
    target: { kind: 'file', paths: ['/x'], direct: false },
  })
  t.like(of(file({ path: new URL('file:///a%20b'), readOnly: true })), { readOnly: true, target: { paths: ['/a b'], readOnly: true } })
  t.like(of(file('/x'), { readOnly: true }), { target: { readOnly: true } })
  t.throws(() => of(memory()), { code: 'ERR_INVALID_ARG_TYPE', message: /^size must be given/ })
  t.like(of(memory(), { size: 4096, dataPath: 'auto-zero-copy' }), { dataPath: 'auto-zero-copy' })
})

test('size, block size and rights of a fault are those of the target below it', (t) => {
  const of = (target: ReturnType<typeof memory>, options = {}): ReturnType<typeof targetDeviceSpec> =>
    targetDeviceSpec(check({ backend: target, ...options }), target.spec)
  const twice = fault(fault(memory(), { delayMs: 1 }), { seed: 2 })
  t.throws(() => of(twice), { message: /^size must be given/ })
  t.like(of(twice, { size: '1MiB' }), {
    sizeBytes: 2 ** 20,
    logicalBlockBytes: 512,
    target: { kind: 'fault', faults: { seed: 2 }, over: [{ kind: 'fault', over: [{ kind: 'mem', sizeBytes: 2 ** 20 }] }] },
  })
  t.like(of(fault(mirror({ paths: ['/a', '/b'], readOnly: true }), {})), {
    sizeBytes: null,
    logicalBlockBytes: null,
    readOnly: true,
    target: { over: [{ kind: 'mirror', paths: ['/a', '/b'], readOnly: true }] },
  })
})

test('an nbd target has TLS where its URI says so, and whoever is trusted is told in the URI or the options', async (t) => {
  const tlsOf = (...given: Parameters<typeof nbd>) => nbd(...given).spec.nbd?.tls
  const none = { certificates: null, ca: null, crl: null, cert: null, key: null, serverName: null, verifyPeer: true }
  t.is(tlsOf('nbd://host/x'), null)
  t.deepEqual(tlsOf('nbds://host/x'), none)
  t.like(nbd('nbds://host:1/x').spec.nbd, { host: 'host', port: 1, socket: null, exportName: 'x' })
  const socket = 'nbds+unix:///x?socket=/run/a+b&tls-certificates=/p%20ki&tls-hostname=disk.example&tls-verify-peer=false'
  const warned = once(process, 'warning')
  t.like(nbd(socket).spec.nbd, { host: null, socket: '/run/a+b', exportName: 'x' })
  t.regex(String(await warned), /^UblkWarning: anybody can be the server of nbds\+unix:/)
  t.deepEqual(tlsOf(socket), { ...none, certificates: '/p ki', serverName: 'disk.example', verifyPeer: false })
  const tls = { ca: 'ca.pem', crl: '/l', cert: new URL('file:///c'), key: '/k', serverName: 'a' }
  const both = { ...none, certificates: '/pki', ca: resolve('ca.pem'), crl: '/l', cert: '/c', key: '/k', serverName: 'a' }
  t.deepEqual(tlsOf('nbds://host/x?tls-certificates=/pki&tls-hostname=b', { tls }), both)
  t.throws(() => nbd('nbd://host/x', { tls: {} }), { code: 'ERR_INVALID_ARG_VALUE', message: /^nbd.tls must be left out/ })
  t.throws(() => nbd('nbd://host/x?tls-hostname=a'), { code: 'ERR_INVALID_ARG_VALUE', message: /^nbd uri must be nbds:/ })
  for (const wrong of ['tls-certificate=/p', 'tls-psk-file=/p', 'tls-verify-peer=no']) {
    t.throws(
      () => nbd(`nbds://host/x?${wrong}`),
      { code: 'ERR_INVALID_ARG_VALUE', message: /^nbd uri's tls-[a-z-]+ must be of tls-cert/ },
      wrong,
    )
  }
  for (const [given, message] of [
    [{ cert: '/c' }, /^nbd.tls must be with both cert and key/],
    [{ ca: '' }, /^nbd.tls.ca must be the path of a file/],
    [{ certificates: 7 }, /^nbd.tls.certificates/],
    [{ serverName: '' }, /^nbd.tls.serverName/],
    [{ verifyPeer: 'no' }, /^nbd.tls.verifyPeer/],
    ['/pki', /^nbd.tls must be an object/],
  ] as const) {
    t.throws(() => nbd('nbds://host', { tls: given as never }), { message })
  }
})

test('targets check their own options', (t) => {
  t.throws(() => memory({ size: 'x' }), { code: 'ERR_INVALID_ARG_VALUE', message: /^memory.size/ })
  t.throws(() => memory(null as never), { code: 'ERR_INVALID_ARG_TYPE' })
  t.throws(() => file({} as never), { code: 'ERR_INVALID_ARG_TYPE', message: /^file.path/ })
  t.throws(() => stripe({ paths: ['/a'] }), { code: 'ERR_OUT_OF_RANGE', message: /^stripe.paths.length/ })
  t.throws(() => stripe({ paths: '/a' } as never), { code: 'ERR_INVALID_ARG_TYPE', message: /^stripe.paths/ })
  for (const chunk of [2048, 12288, '2G']) t.throws(() => stripe({ paths: ['/a', '/b'], chunk }), { message: /^stripe.chunk/ })
  t.throws(() => mirror({ paths: Array(9).fill('/a') }), { code: 'ERR_OUT_OF_RANGE', message: /^mirror.paths.length/ })
  t.throws(() => mirror({ paths: ['/a', ''] }), { code: 'ERR_INVALID_ARG_VALUE', message: /^mirror.paths/ })
  const nbdOf = (uri: string) => nbd(uri).spec.nbd
  const limits = (unprivileged: boolean, options: NbdOptions = {}, delayMs = 0) => {
    const backend = fault(fault(nbd('nbd://host', options), { delayMs }), { delayMs })
    const spec = targetDeviceSpec(checkOptions({ backend, unprivileged }), backend.spec).target?.over[0]?.over[0]?.nbd
    return [spec?.requestTimeoutMs, spec?.patienceMs, spec?.deadlineMs]
  }
  t.deepEqual(limits(false), [null, 20_000, null])
  t.deepEqual(limits(false, { requestTimeoutMs: 60_000, patienceMs: 0 }), [60_000, 0, null])
  // Else the kernel kills the server of such a device before its requests fail.
  t.deepEqual(limits(true), [10_000, 15_000, 28_000])
  t.deepEqual(limits(true, { requestTimeoutMs: 60_000, patienceMs: 60_000 }), [10_000, 15_000, 28_000])
  t.deepEqual(limits(true, { requestTimeoutMs: 300, patienceMs: 500 }, 9_000), [300, 500, 10_000])
  limits(false, {}, 3_600_000)
  t.throws(() => limits(true, {}, 14_000), {
    code: 'ERR_OUT_OF_RANGE',
    message: /^fault.delayMs must be less than 28000 for an unprivileged device, .*kills.*, got 28000$/,
  })
  t.like(nbdOf('nbd://host/a%20b/c'), { host: 'host', port: 10809, socket: null, exportName: 'a b/c', patienceMs: 20_000 })
  t.like(nbdOf('nbd://[::1]:99'), { host: '::1', port: 99, exportName: '' })
  t.like(nbdOf('nbd+unix:///disk?socket=/run/x.sock'), { host: null, socket: '/run/x.sock', exportName: 'disk' })
  for (const uri of ['host', 'nbd://', 'nbds://', 'nbds://alice@host/x', 'http://host/x', 'nbd+unix:///x', 'nbd+unix://host/x?socket=/y']) {
    t.throws(() => nbd(uri), { code: 'ERR_INVALID_ARG_VALUE', message: /^nbd uri must be nbd:/ }, uri)
  }
  t.throws(() => nbd(7 as never), { code: 'ERR_INVALID_ARG_TYPE' })
  t.throws(() => nbd('nbd://a', { patienceMs: -1 }), { message: /^nbd.patienceMs/ })
  t.throws(() => nbd('nbd://a', { requestTimeoutMs: 3_600_001 }), { message: /^nbd.requestTimeoutMs/ })
  t.throws(() => fault({} as never, {}), { code: 'ERR_INVALID_ARG_TYPE', message: /^fault over/ })
  const faultOf = (options: object) => fault(memory(), options).spec.faults
  for (const rate of [-0.1, 1.1, Number.NaN]) t.throws(() => faultOf({ errorRate: rate }), { message: /^fault.errorRate/ })
  t.throws(() => faultOf({ tornWriteRate: 2 }), { message: /^fault.tornWriteRate/ })
  t.throws(() => faultOf({ errorOps: ['erase'] }), { message: /^fault.errorOps/ })
  t.throws(() => faultOf({ errorRange: { begin: 5, end: 5 } }), { message: /^fault.errorRange.end/ })
  t.throws(() => faultOf({ dieAt: 'dawn' }), { message: /^fault.dieAt/ })
  t.throws(() => faultOf({ dieAfter: 0 }), { message: /^fault.dieAfter/ })
  t.throws(() => faultOf({ seed: 1.5 }), { message: /^fault.seed/ })
  t.throws(() => faultOf({ delayMs: 3_600_001 }), { message: /^fault.delayMs/ })
  t.like(faultOf({}), { errorRate: 0, errorOps: [], errorBegin: null })
  t.like(faultOf({ errorOps: ['writeZeroes'] }), { errorRate: 1, errorOps: ['write_zeroes'] })
  t.like(faultOf({ errorRange: { begin: 0, end: '1M' }, errorRate: 0.5 }), { errorRate: 0.5, errorBegin: 0, errorEnd: 2 ** 20 })
  t.throws(() => file(''), { code: 'ERR_INVALID_ARG_VALUE', message: /^file.path/ })
  t.throws(() => file({ path: '/x', direct: 'yes' as never }), { code: 'ERR_INVALID_ARG_TYPE', message: /^file.direct/ })
})

test('a wish about zero copy that the device has no use for is no obstacle to its recovery', (t) => {
  const shape = { id: 3, size: 4096, queues: 1, depth: 1, logicalBlockSize: 512, physicalBlockSize: 4096, maxIoBytes: 4096 }
  const info = (dataPath: string) =>
    ({ ...shape, readOnly: false, rotational: false, dataPath, flags: ['USER_RECOVERY'] }) as unknown as DeviceInfo
  const recover = (dataPath: string, options: object) =>
    checkRecoverOptions(info(dataPath), { backend: memory(), ...options } as RecoverOptions)
  for (const zeroCopyFallback of [true, 'always', false, undefined]) t.notThrows(() => recover('copy', { zeroCopyFallback }))
  t.is(recover('auto-zero-copy', { zeroCopyFallback: 'always' }).zeroCopyFallback, 'always')
  t.throws(() => recover('copy', { zeroCopyFallback: 'yes' }), { code: 'ERR_INVALID_ARG_TYPE', message: /^zeroCopyFallback/ })
  // Threads that the driver cannot take would be refused when it waits for their queues.
  t.throws(() => recover('copy', { threads: 2, perIo: true }), {
    code: 'ERR_INVALID_ARG_VALUE',
    message: /^perIo must be left out.*Linux 6\.16/,
  })
})

test('what a former server shared is taken as that one told it, or refused by name', (t) => {
  const shape = { id: 3, size: 4096, queues: 1, depth: 1, logicalBlockSize: 512, physicalBlockSize: 4096, maxIoBytes: 4096 }
  const info = {
    ...shape,
    readOnly: false,
    rotational: false,
    dataPath: 'shmem',
    flags: ['SHMEM_ZC', 'USER_RECOVERY'],
  } as unknown as DeviceInfo
  const recover = (sharedMemory: unknown, of = info) =>
    checkRecoverOptions(of, { backend: memory(), sharedMemory } as RecoverOptions).sharedMemory
  const told = { path: '/a', readOnly: true, size: 4096, number: 7, fileId: '5:6' }
  t.deepEqual(recover([told]), [{ path: '/a', readOnly: true, number: 7, fileId: '5:6' }])
  t.deepEqual(recover(undefined), [])
  for (const [given, code, message] of [
    ['/a', 'ERR_INVALID_ARG_TYPE', /^sharedMemory must be an array/],
    [[null], 'ERR_INVALID_ARG_TYPE', /^sharedMemory.number must be a number/],
    [[{ ...told, number: 1024 }], 'ERR_OUT_OF_RANGE', /^sharedMemory.number must be a whole number from 0 to 1023/],
    [[{ ...told, fileId: 5 }], 'ERR_INVALID_ARG_TYPE', /^sharedMemory.fileId must be a string/],
    [[{ ...told, path: 5 }], 'ERR_INVALID_ARG_TYPE', /^sharedMemory must be the path/],
  ] as const) {
    t.throws(() => recover(given), { code, message })
  }
  const copying = { ...info, dataPath: 'copy', flags: ['USER_RECOVERY'] } as DeviceInfo
  t.throws(() => recover([told], copying), {
    code: 'ERR_INVALID_ARG_VALUE',
    message: /^sharedMemory must be left out for a device that moves its data by copy/,
  })
})

test('a module is a URL, a path from here, or worker()', (t) => {
  const urlOf = (given: URL | string): string => (check({ backend: given }).backend as WorkerBackend).url
  t.is(urlOf(new URL('file:///x/y.js')), 'file:///x/y.js')
  t.is(urlOf('file:///x/y.js'), 'file:///x/y.js')
  t.is(urlOf('/x/y.js'), 'file:///x/y.js')
  t.is(urlOf('./y z.ts'), new URL('y%20z.ts', `file://${process.cwd()}/`).href)
  t.deepEqual(check({ backend: './y.js', backendOptions: { a: 1 } }).backend, worker('./y.js', { options: { a: 1 } }))
})

test('each queue has spare slots for late handlers', (t) => {
  t.deepEqual([1, 8, 16, 128, 4096].map(slotCount), [18, 25, 33, 145, 4113])
})
