/**
 * Writes docs/kernel-support.md: asks each kernel of the tests what its driver has, and adds what this project does with it.
 *
 *   node scripts/kernel-support.ts
 */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { table } from '../bench/markdown.ts'
import type { Features } from '../src/driver-features.ts'
import { commands, flagTests, ioCommands, operations, parameters, type Support } from './kernel-support-table.ts'

const KERNELS = ['6.12', '6.18', '7.2']
const DOCUMENT = 'docs/kernel-support.md'

const offers = KERNELS.map((kernel) => {
  const output = execFileSync('vm/run', ['--kernel', kernel, '--', 'node', 'cli/bin/run.js', 'features', '--json'], { encoding: 'utf8' })
  return JSON.parse(output) as Features
})

const text = `# What the driver has, and what is used of it

Written by \`make kernel-support\` from the answers of the kernels that the tests run on (Debian's), the lists in crates/ublk-uapi, and
scripts/kernel-support-table.ts. "Since" is the first release of mainline Linux; distributions carry features back, so a device is always
made by what the kernel itself says. \`ublk features\` prints the first table for the kernel that is running.

Each test fails when the code for its row is removed: [removals.md](removals.md) says which code, and what the test failed with.
BUF_REG_OFF_DAEMON alone has no code here; why is said below its table.

## Flags

${table(['flag', 'bit', 'since', ...KERNELS, 'used by', 'test'], flagRows())}

BUF_REG_OFF_DAEMON lets the ring of any thread register the pages of a request whose tag another thread fetched. No target has a use for it: a tag
is committed by the thread that fetched it, so a request served by another ring would go to that thread and back, and such a hop is what costs a
backend on the main thread its latency (docs/performance.md: a read takes 60 µs there, 31 µs in the worker that owns its ring). Nor has a backend in
JavaScript, whose data must be in its memory. Threads that share the queues (\`perIo\`) have tags of their own, and register for those. The
test shows that the driver keeps the promise, for the target of somebody else that needs it.

## Control commands

${supportTable(commands)}

Each has a deadline of 30 s (DEL_DEV 2 s, and 30 more for its turn; START_DEV and END_USER_RECOVERY 60 s, QUIESCE_DEV its own), is sent again when a signal interrupts it, and fails with an
error that names the device, the command and what to do. Kernels before 6.5 cannot list their features, and are sent the plain numbers of the
commands (\`UBLK_CMD_*\`) in place of ioctls: whether GET_FEATURES is answered tells which.

## I/O commands

${supportTable(ioCommands)}

## Operations

${supportTable(operations)}

FUA, NOUNMAP, the FAILFAST and SWAP hints, NEED_REG_BUF, INTEGRITY and SHMEM_ZC are flags of operations. FUA reaches \`file\` as RWF_DSYNC and
backends in JavaScript as \`req.fua\`; the driver sends it only to devices with a volatile cache.

## Parameters

${supportTable(parameters)}
`
writeFileSync(DOCUMENT, text)

function flagRows(): string[][] {
  const [newest] = offers.slice(-1)
  return (newest?.flags ?? []).map(({ name, bit, since, use }, index) => {
    const short = name.replace('UBLK_F_', '')
    const here = offers.map(({ flags }) => (flags[index]?.here ? 'yes' : 'no'))
    return [short, bit, since, ...here, use, flagTests[short] ?? '']
  })
}

function supportTable(rows: readonly Support[]): string {
  return table(
    ['name', 'since', 'used by', 'test'],
    rows.map(({ name, since, use, test }) => [name, since, use, test]),
  )
}
