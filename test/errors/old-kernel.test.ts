/** What only an older kernel refuses. Runs on 6.12. */
import test from 'ava'
import { createDevice, nullTarget, stopDevice } from '../../src/index.ts'
import { withDevice } from '../device/support.ts'
import { Report } from './observe.ts'

const report = new Report('old-kernel')
test.after.always(() => report.write())

test.serial('a recovery that the kernel has not', (t) =>
  report.provoke(t, 'machine', {
    what: 'A recovery that the kernel does not have (here 6.12)',
    library: () => createDevice({ backend: nullTarget({ size: 1 << 20 }), recovery: 'fail-io' }),
    command: { args: ['add', 'null', '--recovery', 'fail-io'] },
  }),
)

test.serial('memory that the kernel does not know how to share or align', async (t) => {
  const backend = nullTarget({ size: 1 << 20 })
  await report.provoke(t, 'machine', {
    what: 'Shared memory that the kernel does not have (here 6.12)',
    library: () => createDevice({ backend, dataPath: 'shmem' }),
    command: { args: ['add', 'null', '--data-path', 'shmem'] },
  })
  await report.provoke(t, 'machine', {
    what: 'An alignment of memory that the kernel does not have (here 6.12)',
    library: () => createDevice({ backend, dmaAlignment: 512 }),
    command: { args: ['add', 'null', '--dma-align', '512'] },
  })
})

test.serial('a safe stop, which the kernel has not', (t) =>
  withDevice({ backend: nullTarget({ size: 1 << 20 }) }, async (device) => {
    await report.provoke(t, 'devices', {
      what: 'A safe stop, which the kernel does not have (here 6.12)',
      library: () => stopDevice(device.id, { safe: true }),
      command: { args: ['stop', String(device.id), '--safe'] },
    })
    t.is(device.state, 'live')
  }),
)
