import test from 'ava'
import { failureIn } from './removals-failure.ts'

const PANIC = "\nthread 'x' (9) panicked at crates/ublk/tests/device.rs:119:5:\n"
const ended = (output: string, status: number | null = 101) => failureIn({ status, seconds: 83, output })

test('a panic is told with its place, without the words of unwrap', (t) => {
  const text = 'called `Result::unwrap()` on an `Err` value: NoDevice { id: 7 }\nnote: run with `RUST_BACKTRACE=1`\n'
  t.is(ended(`running 1 test\n${PANIC}${text}`), 'device.rs:119: NoDevice { id: 7 }')
})

test('a comparison and a list are told with their values', (t) => {
  const comparison = 'assertion `left == right` failed: the size\n  left: 1\n right: 2\nnote: run\n'
  t.is(ended(PANIC + comparison), 'device.rs:119: assertion `left == right` failed: the size left: 1, right: 2')
  t.is(ended(`${PANIC}missing: [\n    "A",\n    "B",\n]\n`), 'device.rs:119: missing: [ "A", "B",')
})

test('an assertion of ava is told with what differs', (t) => {
  const details =
    "  ---\n    name: AssertionError\n    assertion: t.is()\n    details:\n      'Difference:': |-\n        - 0\n        + 6\n"
  t.is(ended(`TAP version 13\nok 1 - one\nnot ok 2 - two\n${details}    message: ''\n  ...\n`, 1), 'two: t.is() - 0 + 6')
  const rejected =
    "  ---\n    details:\n      'Reason:': |-\n        UblkError {\n          message: `x: no such file␊\n          `,\n        }\n    message: Rejected promise\n"
  t.is(ended(`not ok 1 - one\n${rejected}  ...\n`, 1), 'one: Rejected promise x: no such file')
})

test('a time-out is told, after what came before it', (t) => {
  t.is(ended('running 1 test\n', null), 'no end within 83 s')
  t.is(ended(`${PANIC}it waits\n`, null), 'device.rs:119: it waits; then no end within 83 s')
})

test('an end without a word is told by its status, and a long one is cut', (t) => {
  t.is(ended(''), 'exit status 101')
  t.is(failureIn(undefined), 'it was not run')
  t.is(ended(`${PANIC}${'x'.repeat(500)}\n`).length, 200)
})
