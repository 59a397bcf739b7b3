import test from 'ava'
import memory from '../../examples/memory.ts'
import { example, keepsFiles, serve, sh } from './support.ts'

test.serial('memory.ts keeps a file system, served by a worker', async (t) => {
  const device = await serve(t, { backend: example('memory.ts'), backendOptions: { size: '48MiB' } })
  t.is(device.size, 48 * 2 ** 20)
  await keepsFiles(t, device)
})

test.serial('memory.ts keeps a file system, served by the main thread', async (t) => {
  const device = await serve(t, { backend: memory({ size: '48MiB' }) })
  await keepsFiles(t, device)
})

test.serial('memory.ts reads as zeros where it was discarded', async (t) => {
  const device = await serve(t, { backend: example('memory.ts'), backendOptions: { size: '8MiB' } })
  await sh(`tr '\\0' x </dev/zero | dd of=${device.path} bs=1M count=8 iflag=fullblock oflag=direct status=none`)
  await sh(`blkdiscard --offset 1M --length 2M ${device.path}`)
  await sh(`blkdiscard --zeroout --offset 5M --length 1M ${device.path}`)
  const bytes = await sh(`dd if=${device.path} bs=1M iflag=direct status=none | tr -d '\\0' | wc -c`)
  t.is(Number(bytes), 5 * 2 ** 20)
})
