import { execFileSync } from 'node:child_process'
import test from 'ava'
import { crateViolations, importViolations } from './arrows.ts'

const crate = (name: string, ...dependencies: string[]) => ({
  name,
  dependencies: dependencies.map((dependency) => ({ name: dependency })),
})

test('crates that follow the arrows pass', (t) => {
  t.deepEqual(
    crateViolations([
      crate('ublk-uapi', 'bitflags'),
      crate('ublk-executor', 'io-uring', 'libc'),
      crate('ublk', 'ublk-executor', 'ublk-uapi'),
      crate('ublk-node', 'ublk', 'napi', 'napi-derive'),
    ]),
    [],
  )
})

for (const [name, dependency] of [
  ['ublk-executor', 'ublk-uapi'],
  ['ublk-executor', 'ublk'],
  ['ublk-uapi', 'ublk-executor'],
  ['ublk', 'ublk-node'],
  ['ublk', 'napi'],
  ['ublk-executor', 'napi-sys'],
] as const) {
  test(`crate ${name} must not depend on ${dependency}`, (t) => {
    const violations = crateViolations([crate(name, 'libc', dependency)])
    t.is(violations.length, 1)
    t.true(violations[0]?.startsWith(`crate ${name} depends on ${dependency};`))
  })
}

test('a crate without a place in the table is a violation', (t) => {
  t.is(crateViolations([crate('ublk-extra')]).length, 1)
})

test('imports that follow the arrows pass', (t) => {
  t.deepEqual(
    importViolations([
      { path: 'src/testing/mock.ts', imports: ['../device.ts', 'node:fs', '../../package.json'] },
      { path: 'cli/src/commands/add.ts', imports: ['../table.ts', 'ublk', '@oclif/core', 'node:path'] },
      { path: 'examples/memory.ts', imports: ['ublk', 'ublk/testing'] },
      { path: 'test/unit/size.test.ts', imports: ['ava', '../../src/size.ts'] },
    ]),
    [],
  )
})

for (const [file, module] of [
  ['src/device.ts', '../cli/src/state.ts'],
  ['src/device.ts', 'ublk-cli'],
  ['src/device.ts', 'pino'],
  ['cli/src/commands/add.ts', '../../../src/device.ts'],
  ['cli/src/commands/add.ts', 'ublk/dist/device.js'],
  ['cli/src/commands/add.ts', '/opt/ublk/src/device.ts'],
  ['csi/src/node/stage.ts', '../../../cli/src/state.ts'],
  ['csi/src/node/stage.ts', 'ublk-cli'],
  ['examples/memory.ts', '../src/index.ts'],
] as const) {
  test(`${file} must not import ${module}`, (t) => {
    t.is(importViolations([{ path: file, imports: [module] }]).length, 1)
  })
}

test('this checkout follows the arrows', (t) => {
  t.regex(execFileSync('scripts/node', ['scripts/check-arrows.ts'], { encoding: 'utf8' }), / 0 violations/)
})
