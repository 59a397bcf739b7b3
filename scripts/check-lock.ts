/**
 * Checks that package-lock.json was made from the package.json files as they are: each workspace asks in both for the same
 * versions. npm itself would tell by `npm ci`, which scripts/setup cannot use, and older ones stumble over the root's link to itself.
 */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { isDeepStrictEqual } from 'node:util'

const root = path.resolve(import.meta.dirname, '..')
const kinds = ['dependencies', 'devDependencies', 'optionalDependencies', 'peerDependencies'] as const
type Manifest = { version: string; workspaces?: string[] } & { [kind in (typeof kinds)[number]]?: Record<string, string> }

const readJson = (file: string): unknown => JSON.parse(readFileSync(path.join(root, file), 'utf8'))
const locked = (readJson('package-lock.json') as { packages: Record<string, Manifest> }).packages

let stale = 0
for (const folder of ['', ...(locked['']?.workspaces ?? [])]) {
  const manifest = readJson(path.join(folder, 'package.json')) as Manifest
  for (const kind of kinds) {
    if (isDeepStrictEqual(manifest[kind] ?? {}, locked[folder]?.[kind] ?? {})) continue
    console.error(`package-lock.json does not have the ${kind} of ${path.join(folder, 'package.json')}: run \`npm install\` and commit it`)
    stale += 1
  }
}
process.exitCode = stale > 0 ? 1 : 0
