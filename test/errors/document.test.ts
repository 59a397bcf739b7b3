/**
 * Compares docs/errors.md with what the tests in the VM observed, or writes it anew. Started by test/errors/run, which says where the
 * observations are (OBSERVED) and whether to write (UPDATE_ERRORS=1).
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import test from 'ava'
import { ERROR_CODES } from '../../src/index.ts'
import { type Row, render, uncovered } from './render.ts'

const DOCUMENT = new URL('../../docs/errors.md', import.meta.url)
const observed = process.env.OBSERVED
if (observed === undefined) throw new Error('start this test with test/errors/run')
const rows = readdirSync(observed)
  .sort()
  .flatMap((name) => JSON.parse(readFileSync(path.join(observed, name), 'utf8')) as Row[])

if (process.env.UPDATE_ERRORS === '1') writeFileSync(DOCUMENT, render(rows))

test('docs/errors.md tells what happens; test/errors/run --update writes it anew', (t) => {
  t.is(readFileSync(DOCUMENT, 'utf8'), render(rows))
})

test('every code of the library is provoked, or listed as tested elsewhere', (t) => {
  t.deepEqual(uncovered(Object.keys(ERROR_CODES), rows), [])
})
