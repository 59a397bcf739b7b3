/**
 * The direction of dependencies: cli, csi → src → ublk-node → ublk → ublk-executor, ublk-uapi. What may depend on what,
 * as pure functions over what cargo and the TypeScript files say; scripts/check-arrows.ts feeds them the real ones.
 */
import { builtinModules } from 'node:module'
import path from 'node:path'

/** A crate as `cargo metadata` tells it, dev and build dependencies included. */
export interface Crate {
  name: string
  dependencies: Array<{ name: string }>
}

/** One TypeScript file with the modules it imports, as written. */
export interface SourceFile {
  /** From the checkout's root, such as src/device.ts. */
  path: string
  imports: string[]
}

/** Each crate of the workspace with those of the workspace that it may use. */
const crateArrows: Record<string, string[]> = {
  'ublk-uapi': [],
  'ublk-check': [],
  'ublk-executor': [],
  ublk: ['ublk-executor', 'ublk-uapi'],
  'ublk-node': ['ublk', 'ublk-executor', 'ublk-uapi'],
}
/** Only this one may know Node. */
const nodeCrate = 'ublk-node'
const nodeBindings = /^napi($|-)|^neon($|-)/

interface FolderRule {
  folder: string
  /** Other folders of the checkout that relative imports may reach. */
  reaches: string[]
  /** Packages that may be imported by name; null allows any. */
  packages: RegExp | null
  why: string
}

/** First match counts, so the narrower folder stands first. */
const folderRules: FolderRule[] = [
  {
    folder: 'src/',
    // Its own version, and the addon where the build puts it.
    reaches: ['package.json', 'native/'],
    packages: /^$/,
    why: 'the library has no runtime dependencies and knows nothing of its users',
  },
  { folder: 'cli/src/', reaches: [], packages: /^(?!ublk\/)/, why: 'the CLI takes the library by its name, `ublk`' },
  { folder: 'csi/src/', reaches: [], packages: /^(?!ublk\/|ublk-cli$)/, why: 'the driver takes the library by its name, `ublk`' },
  { folder: 'examples/', reaches: [], packages: /^(?!ublk-cli$|ublk-csi$)/, why: 'an example is what a user writes: `ublk` by its name' },
]

/** Sentences, one for each dependency of a crate against the arrows. */
export function crateViolations(crates: Crate[]): string[] {
  return crates.flatMap(({ name, dependencies }) => {
    const allowed = crateArrows[name]
    if (allowed === undefined) return [`crate ${name} is not in the table of scripts/arrows.ts; say there what it may depend on`]
    return dependencies.flatMap((dependency) => {
      if (dependency.name in crateArrows && dependency.name !== name && !allowed.includes(dependency.name)) {
        return [`crate ${name} depends on ${dependency.name}; it may depend on ${allowed.join(', ') || 'no crate of this workspace'}`]
      }
      if (nodeBindings.test(dependency.name) && name !== nodeCrate) {
        return [`crate ${name} depends on ${dependency.name}; only ${nodeCrate} may know Node`]
      }
      return []
    })
  })
}

/** Sentences, one for each import against the arrows. */
export function importViolations(files: SourceFile[]): string[] {
  return files.flatMap((file) => {
    const rule = folderRules.find(({ folder }) => file.path.startsWith(folder))
    if (rule === undefined) return []
    return file.imports
      .filter((module) => !isAllowed(file.path, module, rule))
      .map((module) => `${file.path} imports '${module}'; ${rule.why}`)
  })
}

function isAllowed(filePath: string, module: string, { folder, reaches, packages }: FolderRule): boolean {
  if (module.startsWith('.')) {
    const target = path.posix.join(path.posix.dirname(filePath), module)
    return [folder, ...reaches].some((place) => target.startsWith(place))
  }
  if (module.startsWith('/') || module.startsWith('file:')) return false
  if (module.startsWith('node:') || builtinModules.includes(module)) return true
  return packages === null || packages.test(module)
}
