/**
 * The program: hands the arguments to oclif and ends with the exit status of what came of it.
 *
 * Nothing here calls `process.exit`: output to a pipe is asynchronous and must get out, and a server must go on.
 */

import { readFileSync } from 'node:fs'
import { extname, join } from 'node:path'
import { run } from '@oclif/core/run'
import { settings } from '@oclif/core/settings'
import { loadVerbs } from './index.ts'
import { printError } from './lib/base-command.ts'

const ROOT = join(import.meta.dirname, '..')

export async function main(argv: string[] = process.argv.slice(2)): Promise<void> {
  // Node strips the types when it runs from sources; oclif must not look for a compiler.
  settings.enableAutoTranspile = false
  try {
    // Without plugins: oclif would look for them in the home directory, which a service user has not or may not read.
    const options = { root: ROOT, name: 'ublk-cli', isRoot: true, pjson: packageDescription(), userPlugins: false, devPlugins: false }
    const words = normalise(argv)
    await loadVerbs(words[0])
    await run(words, options)
  } catch (error) {
    // Verbs report their own errors; what comes here has no verb, such as an unknown one.
    printError(error, argv.includes('--json'))
  }
}

/** `ublk help VERB` is `ublk VERB --help`. */
function normalise([first, ...rest]: string[]): string[] {
  if (first === 'help') return rest.length === 0 ? ['--help'] : [...rest, '--help']
  return first === undefined ? [] : [first, ...rest]
}

/** package.json with the commands beside this file: compiled ones in `dist`, sources in `src`. */
function packageDescription() {
  const description = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
  description.oclif.commands.target = join(import.meta.dirname, `index${extname(import.meta.filename)}`).slice(ROOT.length + 1)
  return description
}
