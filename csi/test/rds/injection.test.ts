/** Whatever is put in, the router's own parser sees the one command that was meant, and the values come back as they were. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { CsiError } from '../../src/errors.ts'
import { volumeId } from '../../src/ids.ts'
import {
  addDisk,
  allowed,
  copyDisk,
  type Property,
  pairs,
  quote,
  readDetail,
  readJson,
  removeDisk,
  removeFile,
  type Script,
  setDisk,
} from '../../src/rds/command.ts'
import { outcomeOf, wrapped } from '../../src/rds/exchange.ts'
import { Console } from '../routeros/console.ts'
import { NoExporter } from '../routeros/exporter.ts'
import { type Command, type Expression, parse } from '../routeros/grammar.ts'
import { Machine } from '../routeros/machine.ts'

const RUNS = 10_000
const NONCE = '0123456789abcdef'
const directory = mkdtempSync(join(tmpdir(), 'ublk-csi-injection-'))
const machine = new Machine({ directory, exporter: new NoExporter() })
const router = new Console(machine)
test.after.always(() => rmSync(directory, { recursive: true }))

/** Pieces that end a string, a command or a block, or begin something that is evaluated. */
const pieces = [
  '"',
  '\\',
  '$',
  ';',
  '\n',
  '\r',
  '[',
  ']',
  '{',
  '}',
  '(',
  ')',
  '#',
  '*',
  '~',
  '!',
  ' ',
  '\\"',
  '$[',
  '$(',
  '$x',
  '\\22',
  '\\5C',
  '\0',
  'é',
]
const payloads = [
  '/system reboot',
  '"; /system reboot; :put "',
  '[/system reboot]',
  '$[/system reboot]',
  '" do={/system reboot}',
  '\n/disk remove [find]',
]
const hostile = fc
  .array(
    fc.oneof(fc.constantFrom(...pieces, ...payloads), fc.string({ maxLength: 6 }), fc.constantFrom('pvc-', 'a', '..', '/', 'no', '1', '-')),
    {
      maxLength: 10,
    },
  )
  .map((parts) => parts.join(''))
const printable = hostile.map((text) => text.replace(/[^ -~]/g, ''))

/** A text without anything that would be evaluated; undefined where something would. */
function literal(expression: Expression | undefined): string | undefined {
  if (expression?.kind !== 'text' || expression.parts.some((part) => typeof part !== 'string')) return undefined
  return expression.parts.join('')
}

/** The commands of a wrapped script, without the wrapping, which must be there and whole. */
function inner(script: Script): Command[] {
  const [guard, ...more] = parse(wrapped(script, NONCE, 'onerror'), router)
  const body = guard?.named.get('in')
  if (guard?.name !== ':onerror' || more.length > 0 || body?.kind !== 'block') throw new Error('the wrapping was broken')
  const last = body.script.at(-1)
  if (last?.name !== ':put' || literal(last.positional[0]) !== `OK ${NONCE}`) throw new Error('the last line was broken')
  return body.script.slice(0, -1)
}

test(`quoting alone: of ${RUNS} hostile values each is one value of one command, byte for byte`, (t) => {
  let seen = 0
  fc.assert(
    fc.property(printable, printable, (path, nqn) => {
      const script = `/disk add ${pairs([
        ['file-path', path],
        ['nvme-tcp-server-nqn', nqn],
      ])}` as Script
      const commands = inner(script)
      seen++
      return (
        commands.length === 1 &&
        commands[0]!.name === '/disk/add' &&
        commands[0]!.named.size === 2 &&
        literal(commands[0]!.named.get('file-path')) === path &&
        literal(commands[0]!.named.get('nvme-tcp-server-nqn')) === nqn
      )
    }),
    { numRuns: RUNS },
  )
  t.is(seen, RUNS)
  t.log(`${seen} values quoted and read back`)
})

test('quoting refuses what is not printable ASCII', (t) => {
  for (const text of ['a\nb', 'a\rb', '\0', '\x7f', 'ä', '\u2028']) t.throws(() => quote(text), { instanceOf: CsiError })
})

const builders: [string, (text: string) => Script][] = [
  ['/disk/add', (text) => addDisk({ type: 'file', slot: text, 'file-path': '/raid10/x.img', 'mount-filesystem': 'no' })],
  ['/disk/add', (text) => addDisk({ type: 'file', slot: 'a', 'file-path': text, 'mount-filesystem': 'no' })],
  ['/disk/set', (text) => setDisk('a', { 'nvme-tcp-server-nqn': text })],
  ['/disk/set', (text) => setDisk('a', { 'nvme-tcp-server-allow-host-name': text })],
  ['/disk/set', (text) => setDisk(text, { 'file-size': 1n })],
  ['/disk/set', (text) => setDisk('a', { 'mount-filesystem': text, 'nvme-tcp-export': text })],
  ['/disk/remove', (text) => removeDisk(text)],
  ['/disk/copy', (text) => copyDisk(text, text)],
  ['/file/remove', (text) => removeFile(text)],
  ['/disk/print', (text) => readDetail('/disk', { slot: text })],
  ['/file/print', (text) => readDetail('/file', { name: text })],
  [':put', (text) => readJson('/disk', { 'mount-point': text })],
]

test(`the builder: of ${RUNS} hostile values each is refused, or is one command that leaves the rest of the router alone`, async (t) => {
  let refused = 0
  let built = 0
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...builders), hostile, async ([name, build], text) => {
      let script: Script
      try {
        script = build(text)
      } catch (error) {
        refused++
        return error instanceof CsiError && /cannot be a RouterOS/.test(error.message)
      }
      built++
      const commands = inner(script)
      router.ran.length = 0
      const reply = await router.run(wrapped(script, NONCE, 'onerror'), 80)
      // `[find …]` is part of the command; nothing else may have run, and the reply is the wrapping's own.
      const ran = router.ran.filter((command) => !command.endsWith('/find'))
      const own = name === ':put' ? '/disk/print' : name
      return (
        commands.length === 1 &&
        commands[0]!.name === name &&
        ran.every((command) => command === own) &&
        outcomeOf(reply, NONCE).kind !== 'cut'
      )
    }),
    { numRuns: RUNS },
  )
  t.is(refused + built, RUNS)
  t.true(built > 50)
  t.log(`${refused} values refused before any command, ${built} built`)
  t.deepEqual(machine.files(), [])
})

test('what the driver needs is allowed', (t) => {
  const fine: [Property, string][] = [
    ['slot', `${volumeId('x')}-new`],
    ['file-path', `/raid10/csi/${volumeId('x')}.from.${volumeId('y')}.img`],
    ['name', `raid10/csi/${volumeId('x')}.img`],
    ['nvme-tcp-server-nqn', `nqn.2000-02.com.mikrotik:${volumeId('x')}`],
    ['nvme-tcp-server-allow-host-name', 'nqn.2000-02.com.mikrotik:node:worker-1.example.org'],
    ['mount-filesystem', 'no'],
  ]
  for (const [property, text] of fine) t.is(allowed(property, text), text)
})

test('the router is never told to mount what a node has mounted, and no path climbs', (t) => {
  t.throws(() => addDisk({ 'mount-filesystem': 'yes' }), { instanceOf: CsiError })
  for (const path of ['/a/../b', '/..', '/a/.hidden', 'a', '/a//b', '/a/', '/a b', '/a..b', '/']) {
    t.throws(() => allowed('file-path', path), { instanceOf: CsiError }, path)
  }
})
