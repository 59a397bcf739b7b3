/**
 * Checks the direction of dependencies (scripts/arrows.ts) of this checkout: the crates' manifests, the imports of the
 * TypeScript sources, and that the library's package has no runtime dependency. Exit status 1 on a violation.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import ts from 'typescript'
import { type Crate, crateViolations, importViolations, type SourceFile } from './arrows.ts'

const root = path.resolve(import.meta.dirname, '..')
const run = (program: string, ...parameters: string[]): string =>
  execFileSync(program, parameters, { cwd: root, encoding: 'utf8', maxBuffer: 64 << 20 })

function readCrates(): Crate[] {
  return (JSON.parse(run('cargo', 'metadata', '--format-version', '1', '--no-deps')) as { packages: Crate[] }).packages
}

function readSourceFiles(): SourceFile[] {
  const listed = run('git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z', '--', '*.ts').split('\0').filter(Boolean)
  return listed.map((file) => {
    const { importedFiles } = ts.preProcessFile(readFileSync(path.join(root, file), 'utf8'), true, true)
    return { path: file, imports: importedFiles.map(({ fileName }) => fileName) }
  })
}

function manifestViolations(): string[] {
  const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { dependencies?: Record<string, string> }
  return Object.keys(manifest.dependencies ?? {}).map((name) => `package.json depends on ${name}; the library has no runtime dependencies`)
}

const crates = readCrates()
const files = readSourceFiles()
const violations = [...crateViolations(crates), ...importViolations(files), ...manifestViolations()]
for (const violation of violations) console.error(violation)
console.log(`${crates.length} crates, ${files.length} TypeScript files, ${violations.length} violations`)
// Nothing read means that the check looked in the wrong place.
process.exitCode = violations.length > 0 || crates.length === 0 || files.length === 0 ? 1 : 0
