import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { ublk, VERBS } from './program.ts'

const ROOT = join(import.meta.dirname, '..')
const PACKAGE = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))

test.serial('without arguments it lists every verb', async (t) => {
  const { status, stdout, stderr } = await ublk([])
  t.is(status, 0)
  t.is(stderr, '')
  for (const verb of VERBS) t.regex(stdout, new RegExp(`^  ${verb} +\\S`, 'm'))
})

for (const verb of VERBS) {
  test.serial(`${verb} --help has a usage, --json and examples`, async (t) => {
    const { status, stdout } = await ublk([verb, '--help'])
    t.is(status, 0)
    t.regex(stdout, /^USAGE\n {2}\$ ublk /m)
    t.regex(stdout, /^ {2}--json /m)
    t.regex(stdout, /^EXAMPLES\n/m)
  })
}

test.serial('`help VERB` and `VERB -h` are `VERB --help`', async (t) => {
  const [long, word, short] = await Promise.all([ublk(['del', '--help']), ublk(['help', 'del']), ublk(['del', '-h'])])
  t.is(word.stdout, long.stdout)
  t.is(short.stdout, long.stdout)
})

test.serial('--version and -V print the version of the package', async (t) => {
  for (const flag of ['--version', '-V']) {
    const { status, stdout } = await ublk([flag])
    t.is(status, 0)
    t.true(stdout.startsWith(`ublk-cli/${PACKAGE.version} `), stdout)
  }
})

test.serial('the package installs the program as `ublk` and `ublkjs`', (t) => {
  t.deepEqual(Object.keys(PACKAGE.bin), ['ublk', 'ublkjs'])
  for (const file of Object.values<string>(PACKAGE.bin)) t.true(existsSync(join(ROOT, file)))
})
