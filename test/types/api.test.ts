/** The public types as users write against them: this file is checked by tsc; at run time it only shows that the names exist. */
import test from 'ava'
import type { Backend, BackendFactory, BlockRequest, Device, DeviceOptions, DeviceStats, UblkErrorCode } from '../../src/index.ts'
import * as ublk from '../../src/index.ts'

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const is = <T extends true>(value: T = true as T): T => value

// A backend may be synchronous, asynchronous, or a mix; only `read` is needed.
const readOnly: Backend = { size: '1GiB', read: (buf) => void buf.fill(0) }
const mixed: Backend = {
  size: 512n,
  sync: false,
  supports: { fua: 'native' },
  read: (buf, offset, req) => buf.length - offset + req.tag,
  async write(buf, offset) {
    await Promise.resolve([buf.readUInt8(0), offset])
  },
  flush: async (req) => (req.signal.aborted ? -5 : undefined),
  discard(offset, length, req) {
    is<Equal<typeof offset, number>>()
    is<Equal<typeof length, number>>()
    is<Equal<typeof req, BlockRequest>>()
  },
  writeZeroes: () => -95,
  async open({ id, queue }) {
    is<Equal<typeof id, number>>()
    is<Equal<typeof queue, number | null>>()
  },
  close() {},
}
class Store implements Backend {
  readonly size = 4096
  read(buf: Buffer, offset: number): number {
    return Buffer.alloc(this.size).copy(buf, 0, offset)
  }
}
const factory: BackendFactory = async ({ path }) => (typeof path === 'string' ? new Store() : readOnly)

const options: DeviceOptions[] = [
  { backend: readOnly },
  { backend: new Store(), queues: 2 },
  { backend: ublk.memory({ size: '1GiB' }) },
  { backend: ublk.file('/x') },
  { backend: new URL('./backend.ts', import.meta.url), backendOptions: { path: '/x' } },
  { backend: ublk.worker('./backend.ts', { options: { path: '/x' } }), signal: AbortSignal.timeout(1) },
]

// @ts-expect-error -- a backend must read
const noRead: Backend = { write: () => {} }
// @ts-expect-error -- text is no answer
const badAnswer: Backend = { read: () => 'done' }
// @ts-expect-error -- a device needs a backend
const noBackend: DeviceOptions = { size: 5 }
// @ts-expect-error -- no such recovery
const badRecovery: DeviceOptions = { backend: readOnly, recovery: 'on' }

/** Never called: its body is what a user would write. */
async function uses(): Promise<DeviceStats> {
  const device: Device = await ublk.createDevice({ backend: mixed })
  device.on('error', (error) => is<Equal<typeof error.code, UblkErrorCode>>())
  device.on('timeout', ({ queue }) => is<Equal<typeof queue, number>>())
  device.once('close', () => device.removeAllListeners())
  is<Equal<typeof device.state, 'dead' | 'live' | 'quiesced' | 'fail_io' | 'closed'>>()
  await device.waitFor('live', { timeoutMs: 5, signal: AbortSignal.abort() })
  const p99: number = device.stats().operations.writeZeroes.latency.p99
  is<Equal<typeof p99, number>>()
  await device[Symbol.asyncDispose]()
  const signal = AbortSignal.timeout(5)
  const [{ id }] = (await ublk.listDevices({ signal })) as [ublk.DeviceInfo]
  const { flags }: ublk.Features = await ublk.features({ signal })
  is<Equal<(typeof flags)[number], ublk.Feature>>()
  const cpus: number[] = await ublk.queueAffinity((await ublk.deviceInfo(id, { signal })).id, 0, { signal })
  await ublk.stopDevice(cpus.length, { safe: true, signal })
  await ublk.quiesceDevice(id, { timeoutMs: 5, signal })
  await ublk.resizeDevice(id, '1GiB', { signal })
  const recovered: Device = await ublk.recoverDevice(id, { backend: mixed, cpus: [0], signal })
  await recovered.resize(2n ** 30n, { signal })
  await recovered.quiesce({ timeoutMs: 5, signal })
  // @ts-expect-error -- what the device has already
  await ublk.recoverDevice(id, { backend: mixed, size: 5 })
  await ublk.deleteDevice(id, { wait: false, signal })
  // @ts-expect-error -- no such option
  await ublk.listDevices({ wait: true })
  return device.unref().stats()
}

test('every public name is there', (t) => {
  t.deepEqual(Object.keys(ublk).sort(), [
    'Device',
    'ERROR_CODES',
    'NativeTarget',
    'UblkError',
    'WorkerBackend',
    'createDevice',
    'deleteDevice',
    'deviceInfo',
    'fault',
    'features',
    'file',
    'isSupported',
    'listDevices',
    'memory',
    'mirror',
    'nbd',
    'notifyServiceManager',
    'nullTarget',
    'parseSize',
    'queueAffinity',
    'quiesceDevice',
    'recoverDevice',
    'resizeDevice',
    'stopDevice',
    'stripe',
    'worker',
    'zoned',
  ])
  t.truthy([factory, options, noRead, badAnswer, noBackend, badRecovery, uses])
})
