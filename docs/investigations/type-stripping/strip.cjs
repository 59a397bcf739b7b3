// Strips the types of the project's TypeScript once: enough WebAssembly for V8 to tier it up and free the first code.
const { readFileSync, readdirSync } = require('node:fs')
const { stripTypeScriptTypes } = require('node:module')
const { join } = require('node:path')

for (const dir of ['src', 'cli/src', 'test/device', 'test/boundary']) {
  for (const file of readdirSync(dir, { recursive: true })) {
    if (file.endsWith('.ts')) stripTypeScriptTypes(readFileSync(join(dir, file), 'utf8'))
  }
}
