import { type Backend, createDevice, type Device, type DeviceStats, file, listDevices, memory, UblkError } from 'ublk'

const backend: Backend = {
  size: '1MiB',
  async read(buf, offset, req) {
    buf.fill(req.op === 'read' ? offset : 0)
  },
  write: (buf) => buf.length,
}
await using device: Device = await createDevice({ backend, queues: 2 })
const stats: DeviceStats = device.stats()
const paths: string[] = (await listDevices()).map(({ path }) => path)
device.on('error', (error: UblkError) => console.log(error.code satisfies `ERR_UBLK_${string}`, stats, paths))
await createDevice({ backend: memory({ size: 2n ** 20n }) })
await createDevice({ backend: file('disk.img') })
// @ts-expect-error: an option that does not exist
await createDevice({ backend, dept: 4 })
