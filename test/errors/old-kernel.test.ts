/** What only an older kernel refuses. Runs on 6.12. */
import test from 'ava'
import { createDevice, nullTarget } from '../../src/index.ts'
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
