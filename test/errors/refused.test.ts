/** Options, arguments and modules that are refused before a device is made: needs no driver, and runs on the host. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import test from 'ava'
import { createDevice, type DeviceOptions, fault, memory, worker } from '../../src/index.ts'
import { type Case, type Command, Report } from './observe.ts'

const MIB = 1 << 20
const report = new Report('refused')
const directory = mkdtempSync(path.join(tmpdir(), 'ublk-errors-'))
report.conceal(directory, '/data')
test.after.always(() => report.write())
test.after.always(() => rmSync(directory, { recursive: true }))

const backend = { size: MIB, read() {} }
const mem = memory({ size: MIB })
/** Options for JavaScript, which no compiler checks. */
const misuse = (options: object) => () => createDevice(options as DeviceOptions)
/** What the kernel's limit of time is for. */
const module = path.join(directory, 'slow.js')
writeFileSync(module, 'export default { size: 4096, read() {} }')
const addMem = (...flags: string[]): Command => ({ args: ['add', 'mem', '-s', '1M', ...flags] })

const OPTION_CASES: Case[] = [
  { what: 'No size', library: misuse({ backend: memory() }), command: { args: ['add', 'mem'] } },
  { what: 'Size 0', library: misuse({ backend: memory({ size: 0 }) }), command: { args: ['add', 'mem', '-s', '0'] } },
  {
    what: 'A size that is no multiple of the block size',
    library: misuse({ backend, size: 1000 }),
    command: { args: ['add', 'mem', '-s', '1000'] },
  },
  { what: 'Not a size', library: misuse({ backend, size: '12Q' }), command: { args: ['add', 'mem', '-s', '12Q'] } },
  { what: 'A negative size', library: misuse({ backend, size: -1 }) },
  { what: 'A block size that the driver has not', library: misuse({ backend, blockSize: 100 }), command: addMem('--block-size', '100') },
  { what: 'Depth 0', library: misuse({ backend, depth: 0 }), command: addMem('-d', '0') },
  { what: 'Depth 4097', library: misuse({ backend, depth: 4097 }), command: addMem('-d', '4097') },
  { what: 'No queue', library: misuse({ backend, queues: 0 }), command: addMem('-q', '0') },
  { what: 'A longest request of 3 bytes', library: misuse({ backend, maxIoBytes: 3 }), command: addMem('--max-io', '3') },
  { what: 'More buffers than are sensible', library: misuse({ backend, depth: 4096, maxIoBytes: '32MiB' }) },
  { what: 'An alignment that is none', library: misuse({ backend, dmaAlignment: 3 }), command: addMem('--dma-align', '3') },
  { what: 'Segments shorter than a page', library: misuse({ backend, maxSegmentSize: 512 }), command: addMem('--max-segment-size', '512') },
  {
    what: 'A time limit beyond the kernel’s',
    library: misuse({ backend, requestTimeoutMs: 50_000 }),
    command: { args: ['add', module, '--timeout', '50s'] },
  },
  {
    what: 'A delay for which the kernel would kill the server of an unprivileged device',
    library: misuse({ backend: fault(mem, { delayMs: 30_000 }), unprivileged: true }),
    command: { args: ['add', 'fault', '--over', 'mem', '-s', '1M', '--delay', '30s', '--unprivileged'] },
  },
  { what: 'Not a device number', library: misuse({ backend, id: -1 }), command: addMem('-n', 'x') },
  { what: 'Not a recovery', library: misuse({ backend, recovery: 'maybe' }), command: addMem('--recovery', 'maybe') },
  { what: 'Zero copy for a JavaScript backend', library: misuse({ backend, dataPath: 'auto-zero-copy' }) },
  { what: 'A writable device without `write`', library: misuse({ backend, readOnly: false }) },
  { what: 'An option of the wrong type', library: misuse({ backend, queues: '2' }), command: addMem('-q', 'two') },
  { what: 'An unknown option', library: misuse({ backend, qeues: 2 }), command: addMem('--qeues', '2') },
  { what: 'No backend', library: misuse({}), command: { args: ['add'] } },
  { what: 'A backend without `read`', library: misuse({ backend: { size: MIB } }) },
  {
    what: 'Options for a module with a backend that is none',
    library: misuse({ backend: mem, backendOptions: {} }),
    command: addMem('--set', 'a=b'),
  },
  { what: 'Worker options that cannot be cloned', library: async () => worker('./x.ts', { options: { log: () => {} } }) },
  { what: 'An unknown target', command: { args: ['add', 'ram'] } },
  { what: 'An unknown verb', command: { args: ['ad'] } },
  { what: 'A flag of another target', command: addMem('--direct') },
  { what: 'Flags that exclude each other', command: addMem('--foreground', '--run', 'true') },
  { what: 'One argument too many', command: { args: ['add', 'mem', 'disk.img', '-s', '1M'] } },
]

for (const one of OPTION_CASES) test.serial(one.what, (t) => report.provoke(t, 'options', one))

const BAD_MODULES: [what: string, text: string][] = [
  ['A syntax error', 'export default {{{'],
  ['An import that is not there', "import 'no-such-package'\nexport default { size: '1M', read() {} }"],
  ['The module throws', "throw new Error('no such bucket')"],
  ['No default export', 'export const backend = {}'],
  ['No `read`', "export default { size: '1M', write() {} }"],
  ['No size', 'export default { read() {} }'],
  ['The factory throws', "export default () => { throw new Error('no such key') }"],
  ['The factory makes no backend', 'export default () => 7'],
  ['The module ends its thread', 'process.exit(3)'],
]

test.serial('a module that is not there', (t) => {
  const module = path.join(directory, 'missing.mjs')
  return report.provoke(t, 'modules', {
    what: 'No such module',
    library: () => createDevice({ backend: module }),
    command: { args: ['add', module] },
  })
})

for (const [index, [what, text]] of BAD_MODULES.entries()) {
  test.serial(`a module: ${what}`, async (t) => {
    // A name of its own: a worker's module is loaded anew, but the message shows the name.
    const module = path.join(directory, `module-${index}.mjs`)
    report.conceal(module, '/data/module.mjs')
    writeFileSync(module, text)
    await report.provoke(t, 'modules', { what, library: () => createDevice({ backend: module }), command: { args: ['add', module] } })
  })
}
