/** What a command line loads: a verb that loads too much starts late, and costs its server memory. */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { temporaryDirectory, ublk, VERBS } from './program.ts'

/** Loaded first: writes the URL of each module that is loaded later to the file `LOADED`. */
const RECORDER = `
  import { appendFileSync } from 'node:fs'
  import { registerHooks } from 'node:module'
  registerHooks({
    load(url, context, next) {
      appendFileSync(process.env.LOADED, url + '\\n')
      return next(url, context)
    },
  })
`

/** Modules that `ublk ARGS…` loads, as paths from the folder that holds `cli`. */
async function loadedBy(t: ExecutionContext, args: string[]): Promise<string[]> {
  const { path, remove } = temporaryDirectory()
  t.teardown(remove)
  const list = join(path, 'list')
  const recorder = `--import=data:text/javascript,${encodeURIComponent(RECORDER)}`
  await ublk(args, { env: { NODE_OPTIONS: recorder, LOADED: list } })
  const root = new URL('../..', import.meta.url).href
  return readFileSync(list, 'utf8')
    .split('\n')
    .map((url) => url.replace(root, ''))
}

/** `serve` reads its file with the flags of `add`. */
const NEEDED: Record<string, string[]> = { serve: ['add', 'serve'] }

for (const verb of VERBS) {
  test.serial(`ublk ${verb} loads no verb that it does not need`, async (t) => {
    const modules = await loadedBy(t, [verb, '--help'])
    const verbs = modules.map((module) => /^cli\/src\/commands\/(.*)\.ts$/.exec(module)?.[1]).filter((name) => name !== undefined)
    t.deepEqual(verbs.sort(), NEEDED[verb] ?? [verb])
  })
}

test.serial('--version loads no verb and nothing of the library', async (t) => {
  const modules = await loadedBy(t, ['--version'])
  t.true(modules.includes('cli/src/main.ts'))
  t.deepEqual(
    modules.filter((module) => /^(cli\/src\/commands|src)\//.test(module)),
    [],
  )
})

test.serial('what makes targets is loaded by the verbs that make them', async (t) => {
  const makers = []
  for (const verb of ['add', 'list', 'recover', 'info']) {
    const modules = await loadedBy(t, [verb, '--help'])
    if (modules.includes('cli/src/lib/parse-target.ts')) makers.push(verb)
  }
  t.deepEqual(makers, ['add'])
})
