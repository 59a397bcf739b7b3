/** `--help` of a script: what the comment at its top says. */
import { readFileSync } from 'node:fs'
import { exit, stdout } from 'node:process'

/** Prints the first comment of the file, and ends the process. */
export function printHelp(file: string): never {
  const [, comment = ''] = /^\/\*\*\n(.*?)\n \*\//s.exec(readFileSync(file, 'utf8')) ?? []
  stdout.write(`${comment.replaceAll(/^ \* ?/gm, '')}\n`)
  exit(0)
}
