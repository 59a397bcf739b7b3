import { readFileSync } from 'node:fs'
import test from 'ava'
import { commands, flagTests, ioCommands, operations, parameters } from '../../scripts/kernel-support-table.ts'
import { removals } from '../../scripts/removals-table.ts'
import { FEATURE_USES } from '../../src/driver-features.ts'

const source = (name: string): string => readFileSync(new URL(`../../crates/ublk-uapi/src/${name}.rs`, import.meta.url), 'utf8')
const document = readFileSync(new URL('../../docs/kernel-support.md', import.meta.url), 'utf8')

/** Names of one of the kernel's enumerations, as our mirror of it has them. */
function namesOf(file: string, enumeration: string): string[] {
  const [, body = ''] = new RegExp(`enum ${enumeration}: .*?\\{\\n([^]*?)\\n {4}\\}`).exec(source(file)) ?? []
  return [...body.matchAll(/=> "(\w+)"/g)].map(([, name]) => name as string)
}

const features = [...source('feature').matchAll(/^ {4}([A-Z_]+)\(\d+, \d+\),$/gm)].map(([, name]) => name as string)

const parameterNames = [...source('params').matchAll(/const (\w+) = 1 << \d;/g)]
  .map(([, name]) => name as string)
  .filter((name) => !['READ_ONLY', 'ROTATIONAL', 'VOLATILE_CACHE', 'FUA'].includes(name))

test('every flag of the driver has a use and a test', (t) => {
  t.is(features.length, 20)
  t.deepEqual(
    Object.keys(FEATURE_USES),
    features.map((name) => `UBLK_F_${name}`),
  )
  t.deepEqual(Object.keys(flagTests), features)
})

for (const [what, rows, names] of [
  ['control command', commands, namesOf('command', 'CtrlOp')],
  ['I/O command', ioCommands, namesOf('io', 'IoCmdOp')],
  ['operation', operations, namesOf('request', 'IoOp')],
  ['parameter', parameters, parameterNames],
] as const) {
  test(`every ${what} of the driver has a use and a test`, (t) => {
    t.true(names.length >= 7)
    t.deepEqual(rows.map(({ name }) => name).sort(), names.toSorted())
  })
}

test('the tests that are named are there', (t) => {
  const named = [...Object.values(flagTests), ...[...commands, ...ioCommands, ...operations, ...parameters].map(({ test }) => test)]
  for (const reference of new Set(named)) {
    const [, file = '', title = ''] = /^(\S+?): (.+)$/.exec(reference) ?? []
    t.true(readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8').includes(title), reference)
  }
})

test('every row has a removal, whose edit fits its file', (t) => {
  const names = [features, ...[commands, ioCommands, operations, parameters].map((rows) => rows.map(({ name }) => name))]
  t.deepEqual(
    Object.values(removals).map((rows) => rows.map(({ name }) => name)),
    names,
  )
  for (const { name, file, text, by, also = { text, by } } of Object.values(removals).flat()) {
    const content = readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')
    for (const edit of [{ text, by }, also]) {
      t.is(content.split(edit.text).length, 2, `${name}: "${edit.text}" in ${file}`)
      t.not(edit.text, edit.by)
    }
  }
})

test('the document has a row for each, without an empty cell', (t) => {
  const rows = document.split('\n').filter((line) => line.startsWith('| '))
  for (const name of [...features, ...[...commands, ...ioCommands, ...operations, ...parameters].map(({ name }) => name)]) {
    t.true(
      rows.some((row) => row.startsWith(`| ${name} |`)),
      name,
    )
  }
  for (const row of rows) t.notRegex(row, /\| +\|/, row)
})
