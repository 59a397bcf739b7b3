// Writes oclif.manifest.json, with which a published program starts without loading every verb. `--remove` takes it away
// again: in a checkout it would hide changes.
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Plugin } from '@oclif/core'
import { loadVerbs } from '../dist/index.js'

const root = join(import.meta.dirname, '..')
const file = join(root, 'oclif.manifest.json')

if (process.argv.includes('--remove')) {
  rmSync(file, { force: true })
} else {
  await loadVerbs()
  const plugin = new Plugin({ root, ignoreManifest: true, errorOnManifestCreate: true })
  await plugin.load()
  writeFileSync(file, `${JSON.stringify(plugin.manifest, null, 2)}\n`)
}
