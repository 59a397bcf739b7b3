/**
 * Makes a copy of a node binary that has lost the calls for external buffers: node test/caged/cage.ts NODE COPY.
 *
 * An addon's calls go to the executable's own symbols before those of any preloaded library. So the names are changed in the copy's table of
 * dynamic symbols, and the lookup goes on to refuse.c.
 */
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import process from 'node:process'

const FORBIDDEN = ['napi_create_external_buffer', 'napi_create_external_arraybuffer', 'node_api_create_external_sharedarraybuffer']

const [source, copy] = process.argv.slice(2)
if (source === undefined || copy === undefined) throw new Error('usage: node test/caged/cage.ts NODE COPY')
const binary = readFileSync(source)
for (const name of FORBIDDEN) {
  // Whole strings only: between two zero bytes, as string tables have them.
  const entry = Buffer.from(`\0${name}\0`)
  let at = binary.indexOf(entry)
  if (at === -1) throw new Error(`${source} has no symbol ${name}`)
  for (; at !== -1; at = binary.indexOf(entry, at + 1)) binary[at + 1] = '-'.charCodeAt(0)
}
writeFileSync(copy, binary)
chmodSync(copy, 0o755)
