import { existsSync, readdirSync } from 'node:fs'
import test from 'ava'
import { errorOf, ublk } from './program.ts'

/** On a machine without the driver every verb that needs it says so. Where there is one, the device tests unload it. */
const here = existsSync('/dev/ublk-control') ? test.serial.skip : test.serial

const VERBS = [
  ['list'],
  ['info'],
  ['info', '0'],
  ['features'],
  ['stop', '0'],
  ['stop', '0', '--safe'],
  ['del', '0'],
  ['del', '--all'],
  ['stats', '0'],
  ['recover', '0'],
  ['quiesce', '0'],
  ['resize', '0', '1M'],
  ['affinity', '0'],
  ['cleanup'],
  ['add', 'null'],
  ['add', 'null', '--foreground'],
  ['add', 'null', '--run', 'true'],
]

for (const args of VERBS) {
  here(`exit status 5 with a hint: ublk ${args.join(' ')}`, async (t) => {
    const [text, json] = await Promise.all([ublk(args), ublk([...args, '--json'])])
    t.is(text.status, 5, text.stderr)
    t.is(text.stdout, '')
    t.regex(text.stderr, /^ublk: [^\n]+\nhint: [^\n]+\n$/)
    t.is(json.status, 5)
    t.is(json.stderr, '')
    t.regex(errorOf(json).code, /^ERR_UBLK_(DRIVER_MISSING|UNSUPPORTED)$/)
  })
}

here('doctor finds it, says how to mend it, and exits with 5', async (t) => {
  const text = await ublk(['doctor'])
  t.is(text.status, 5)
  t.regex(text.stdout, /^fail +control: .*\n +→ /m)
  const json = await ublk(['doctor', '--json'])
  t.is(json.status, 5)
  t.is(json.stderr, '')
  const { ok, checks } = JSON.parse(json.stdout)
  t.false(ok)
  for (const { name, status, message, hint } of checks) {
    t.true(['ok', 'warn', 'fail'].includes(status), name)
    t.regex(message, /^[^\n]+$/)
    t.true(status !== 'fail' || hint.length > 0, `${name} fails without a hint`)
  }
})

here('a failed add leaves no state', async (t) => {
  await ublk(['add', 'null', '-n', '4093'])
  const names = existsSync('/run/ublk') ? readdirSync('/run/ublk') : []
  t.deepEqual(
    names.filter((name) => name.includes('4093')),
    [],
  )
})
