import { execFileSync, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import test from 'ava'

test('the generated types are what csi.proto gives', (t) => {
  t.is(spawnSync('protoc', ['--version']).status, 0, 'protoc is missing: `make setup` installs it')
  t.notThrows(() => execFileSync(join(import.meta.dirname, '..', '..', 'scripts', 'generate'), ['--check'], { stdio: 'pipe' }))
})
