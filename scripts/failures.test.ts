import test from 'ava'
import { excerpt } from './failures.ts'

const tap = `TAP version 13
ok 1 - fine
not ok 2 - broken
  ---
    name: AssertionError
    values:
      'Difference:': |
${Array.from({ length: 100 }, (_, line) => `        line ${line}`).join('\n')}
  ...
ok 3 - also fine
    # what a test logs

1..3
# tests 3
# pass 2
# fail 1
`

test('of TAP the failed tests are shown, beginning and end, whatever came after them', (t) => {
  const lines = excerpt(tap + 'noise\n'.repeat(200), 'tap')
  t.is(lines[0], 'not ok 2 - broken')
  t.is(lines[2], '    name: AssertionError')
  t.true(lines.some((line) => /^… \d+ more lines$/.test(line)))
  t.deepEqual(
    lines.slice(-2).map((line) => line.trim()),
    ['line 99', '...'],
  )
  t.false(lines.some((line) => line.includes('also fine') || line.includes('noise')))
})

test('of many failed tests the first are shown, and how many there are besides', (t) => {
  const lines = excerpt(Array.from({ length: 9 }, (_, index) => `not ok ${index + 1} - test ${index + 1}\n`).join(''), 'tap')
  t.deepEqual(lines, [...[1, 2, 3, 4, 5].map((index) => `not ok ${index} - test ${index}`), '… and 4 more'])
})

test('of a log that names no failed test the end is shown', (t) => {
  const log = Array.from({ length: 100 }, (_, line) => `line ${line}`).join('\n')
  for (const format of ['tap', 'cargo', 'closing-line'] as const) {
    const lines = excerpt(log, format)
    t.is(lines.length, 40)
    t.is(lines.at(-1), 'line 99')
  }
})
