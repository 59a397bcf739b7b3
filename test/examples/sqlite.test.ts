import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import test from 'ava'
import { createDevice } from 'ublk'
import { digests, example, folder, keepsFiles, mounted, serve, sh } from './support.ts'

const backend = example('sqlite.ts')

/** Rows that another reader of the database sees: those that are committed. */
function committedBlocks(path: string): number {
  const database = new DatabaseSync(path, { readOnly: true })
  try {
    return Number(database.prepare('SELECT count(*) AS rows FROM blocks').get()?.rows)
  } finally {
    database.close()
  }
}

test.serial('sqlite.ts keeps a file system, also after the database is opened again', async (t) => {
  const path = join(folder(t), 'disk.sqlite')
  const first = await serve(t, { backend, backendOptions: { path, size: '48MiB' } })
  const written = await keepsFiles(t, first)
  await first.close()

  const second = await serve(t, { backend, backendOptions: { path } })
  t.is(second.size, 48 * 2 ** 20)
  t.is(await mounted(t, second, digests), written)
  await sh(`e2fsck -fn ${second.path}`)
})

test.serial('sqlite.ts commits with a flush, and not before', async (t) => {
  const path = join(folder(t), 'disk.sqlite')
  const device = await serve(t, { backend, backendOptions: { path, size: '4MiB' } })
  await sh(`dd if=/dev/urandom of=${device.path} bs=4k count=16 oflag=direct status=none`)
  t.is(committedBlocks(path), 0)
  await sh(`dd if=/dev/urandom of=${device.path} bs=4k count=1 seek=16 oflag=direct conv=fsync status=none`)
  t.is(committedBlocks(path), 17)
})

test.serial('sqlite.ts deletes the rows of what is discarded', async (t) => {
  const path = join(folder(t), 'disk.sqlite')
  const device = await serve(t, { backend, backendOptions: { path, size: '4MiB' } })
  await sh(`dd if=/dev/urandom of=${device.path} bs=1M count=4 oflag=direct conv=fsync status=none`)
  t.is(committedBlocks(path), 1024)
  await sh(`blkdiscard --offset 1M --length 2M ${device.path} && blockdev --flushbufs ${device.path}`)
  await device.close()
  t.is(committedBlocks(path), 512)
})

test.serial('sqlite.ts refuses two queues', async (t) => {
  const path = join(folder(t), 'disk.sqlite')
  await t.throwsAsync(createDevice({ backend, backendOptions: { path, size: '4MiB' }, queues: 2 }), {
    code: 'ERR_UBLK_BACKEND',
    message: /must have one queue, not 2/,
  })
})
