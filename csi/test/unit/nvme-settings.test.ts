/** What a node is told about its connections is what nvme-cli is told. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { pino } from 'pino'
import { type Config, readConfig } from '../../src/config.ts'
import { nqnOf, volumeId } from '../../src/ids.ts'
import { makePlugin } from '../../src/make-plugin.ts'

test('the time for which I/O waits for a router that is gone reaches nvme connect', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ublk-csi-nvme-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const told = join(directory, 'told')
  writeFileSync(join(directory, 'nvme'), `#!/bin/sh\necho "$@" >${told}.new && mv ${told}.new ${told}\n`)
  chmodSync(join(directory, 'nvme'), 0o755)
  process.env.PATH = `${directory}:${process.env.PATH}`
  const flags = ['--mode', 'node', '--provider', 'rds', '--endpoint', 'unix:///csi/csi.sock', '--node-id', 'node-1', '--ctrl-loss-tmo=-1']
  const plugin = await makePlugin(readConfig(flags) as Config, pino({ level: 'silent' }))
  const call = new AbortController()
  const id = volumeId('one')
  const attaching = plugin.node!.attacher.attach(id, { nqn: nqnOf(id), address: '127.0.0.1', port: '4420' }, call.signal)
  while (!existsSync(told)) await delay(5)
  call.abort()
  await t.throwsAsync(attaching)
  t.regex(readFileSync(told, 'utf8'), /^connect .*--ctrl-loss-tmo=-1 /)
})
