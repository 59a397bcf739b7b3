// Strips the types of a checkout's TypeScript, for guests that had better not do it themselves (see guest/types.mjs).
//
//   node strip.mjs CHECKOUT DIR
//
// Writes DIR/SHA256-OF-THE-SOURCE for every .ts file outside node_modules and target; one that cannot be stripped is left to the guest.
import { createHash } from 'node:crypto'
import { globSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { join } from 'node:path'

const [checkout, out] = process.argv.slice(2)
mkdirSync(out, { recursive: true })
for (const path of globSync('**/*.ts', { cwd: checkout, exclude: ['**/node_modules', '**/target', '**/*.d.ts'] })) {
  const source = readFileSync(join(checkout, path))
  let stripped
  try {
    stripped = stripTypeScriptTypes(source.toString())
  } catch {
    continue
  }
  writeFileSync(join(out, createHash('sha256').update(source).digest('hex')), stripped)
}
