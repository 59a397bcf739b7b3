import { spawnSync } from 'node:child_process'
import test from 'ava'
import { judge, readCounts } from './counts.ts'

test('counts of several cargo test programs add up', (t) => {
  const output = `running 12 tests
test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s
`
  t.deepEqual(readCounts(output, 'cargo'), { passed: 15, failed: 2 })
})

test('counts of TAP come from its summary', (t) => {
  t.deepEqual(readCounts('ok 1 - a\nnot ok 2 - b\n1..2\n# tests 2\n# pass 1\n# fail 1\n', 'tap'), { passed: 1, failed: 1 })
})

test('counts of a script come from its closing line, not from a sentence around it', (t) => {
  t.deepEqual(readCounts('note: 9 passed, 9 failed before\n4 passed, 0 failed\n', 'closing-line'), { passed: 4, failed: 0 })
})

test('a suite that ran no test has failed', (t) => {
  t.deepEqual(judge({ passed: 0, failed: 0 }, true), { passed: 0, failed: 1 })
})

test('a suite that ended badly without a failed test counts one failure', (t) => {
  t.deepEqual(judge({ passed: 7, failed: 0 }, false), { passed: 7, failed: 1 })
})

test('a failure that the suite counted is not counted again', (t) => {
  t.deepEqual(judge({ passed: 7, failed: 2 }, false), { passed: 7, failed: 2 })
})

test('an unknown suite is a usage error that names it', (t) => {
  const { status, stderr } = spawnSync('scripts/test', ['--only', 'nonesuch'], { encoding: 'utf8' })
  t.is(status, 2)
  t.regex(stderr, /no suite is called "nonesuch"/)
})

test('a suite that may not end in time is left out, told, and no failure of its own; with none run, the run failed', (t) => {
  const { status, stdout } = spawnSync('scripts/test', ['--only', 'scripts', '--until', String(Math.round(Date.now() / 1000))], {
    encoding: 'utf8',
  })
  t.regex(stdout, /^- +scripts +left out: it may take 120 s, and 0 s are left\n0 passed, 0 failed\n$/)
  t.is(status, 1)
})

test('a time that is none is a usage error that names it', (t) => {
  const { status, stderr } = spawnSync('scripts/test', ['--until', 'noon'], { encoding: 'utf8' })
  t.is(status, 2)
  t.regex(stderr, /not "noon"/)
})
