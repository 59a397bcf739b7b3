import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import test from 'ava'
import { root, runSuite } from './run-suite.ts'
import type { Suite } from './suites.ts'

const suiteOf = (name: string, script: string, timeoutSeconds = 60): Suite => ({
  name: `scripts' own, ${name}`,
  command: ['sh', '-c', script],
  counts: 'tap',
  tags: ['unit'],
  timeoutSeconds,
})

/** A suite of one test, whose machine dies like this the first `crashes` times. */
async function runCrashing(name: string, console: string, crashes: number): ReturnType<typeof runSuite> {
  const directory = mkdtempSync(path.join(tmpdir(), 'run-suite-'))
  try {
    const script = `echo >>${directory}/runs; if [ $(wc -l <${directory}/runs) -le ${crashes} ]; then echo 'vm:   ${console}'; exit 125; fi; printf '# pass 1\\n# fail 0\\n'`
    return await runSuite(suiteOf(name, script))
  } finally {
    rmSync(directory, { recursive: true })
  }
}

test('a suite whose kernel the emulator crashed runs once more, and says so', async (t) => {
  const { reason, remark, counts } = await runCrashing('int3', '[  148.48] Oops: int3: 0000 [#1] SMP NOPTI', 1)
  t.is(reason, '')
  t.deepEqual(counts, { passed: 1, failed: 0 })
  const kept = /^once more: the emulator crashed the kernel \((.+)\)$/.exec(remark)?.[1]
  t.regex(readFileSync(path.join(root, kept ?? ''), 'utf8'), /Oops: int3/)
})

test('it does not where one of its tests had failed', async (t) => {
  const { reason, counts } = await runCrashing('int3 behind a failure', "Oops: int3: 0000 [#1]'; echo 'not ok 1 - a", 1)
  t.is(reason, 'exit status 125')
  t.is(counts.failed, 1)
})

test('it runs once more and no oftener', async (t) => {
  const { reason } = await runCrashing('int3 twice', 'Oops: int3: 0000 [#1]', 2)
  t.is(reason, 'exit status 125')
})

test('any other death of a kernel is a failure at once', async (t) => {
  const { reason, remark, counts } = await runCrashing('oops', 'Oops: general protection fault, probably for non-canonical address', 1)
  t.is(reason, 'exit status 125')
  t.is(remark, '')
  t.deepEqual(counts, { passed: 0, failed: 1 })
})

test('a suite that the time cuts off has not failed, and tells what had passed', async (t) => {
  const { reason, remark, counts } = await runSuite(suiteOf('cut off', 'echo "ok 1 - a"; exec sleep 60'), 5000)
  t.is(reason, '')
  t.is(remark, 'cut off: the time was over')
  t.deepEqual(counts, { passed: 1, failed: 0 })
})

test('unless one of its tests had', async (t) => {
  const { reason, counts } = await runSuite(suiteOf('cut off, failed', 'echo "not ok 1 - a"; exec sleep 60'), 5000)
  t.is(reason, '1 failed')
  t.deepEqual(counts, { passed: 0, failed: 1 })
})

test('a suite that passes its own limit has failed', async (t) => {
  const { reason, counts } = await runSuite(suiteOf('hangs', 'echo "ok 1 - a"; exec sleep 60', 1), 5000)
  t.is(reason, 'still running after 1 s')
  t.deepEqual(counts, { passed: 0, failed: 1 })
})
