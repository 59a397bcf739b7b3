import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { type Config, readConfig, UsageError } from '../../src/config.ts'

const NODE = ['--mode', 'all', '--provider', 'ublk', '--endpoint', 'unix:///csi/csi.sock', '--node-id', 'node-1']

test('flags become a configuration', (t) => {
  const config = readConfig([...NODE, '--metrics', '[::1]:9809', '--max-volumes', '8', '--socket', '/s', '--ctrl-loss-tmo=-1']) as Config
  t.like(config, {
    mode: 'all',
    provider: 'ublk',
    endpoint: '/csi/csi.sock',
    nodeId: 'node-1',
    maxVolumes: 8,
    socket: '/s',
    ctrlLossSeconds: -1,
  })
  t.is((readConfig(NODE) as Config).ctrlLossSeconds, 600)
  t.deepEqual(config.metrics, { host: '::1', port: 9809 })
  t.is((readConfig(['--mode', 'daemon', '--pool', '/p']) as Config).provider, 'ublk')
  t.is(readConfig(['--help']), 'help')
  t.is(readConfig(['--version']), 'version')
})

const REFUSED: Array<[string[], RegExp]> = [
  [[], /--mode is missing/],
  [['--mode', 'both'], /--mode "both" is not one of controller, node, all, daemon/],
  [['--mode', 'controller', '--provider', 'zfs'], /--provider "zfs"/],
  [['--mode', 'controller', '--provider', 'rds'], /--endpoint is missing/],
  [['--mode', 'controller', '--provider', 'rds', '--endpoint', 'tcp://0.0.0.0:1'], /no Unix socket/],
  [['--mode', 'controller', '--provider', 'rds', '--endpoint', `unix:///${'x'.repeat(108)}`], /107 bytes/],
  [['--mode', 'node', '--provider', 'rds', '--endpoint', 'unix:///a'], /--node-id is missing/],
  [['--mode', 'node', '--provider', 'rds', '--endpoint', 'unix:///a', '--node-id', 'a b'], /--node-id "a b"/],
  [['--mode', 'daemon'], /--pool is missing/],
  [[...NODE, '--metrics', '9809'], /HOST:PORT/],
  [[...NODE, '--metrics', 'a:99999'], /HOST:PORT/],
  [[...NODE, '--max-volumes', '-1'], /max-volumes/],
  [[...NODE, '--ctrl-loss-tmo=-2'], /--ctrl-loss-tmo "-2" is neither/],
  [[...NODE, '--ctrl-loss-tmo', 'soon'], /--ctrl-loss-tmo "soon" is neither/],
  [[...NODE, '--log-level', 'loud'], /--log-level "loud"/],
  [[...NODE, '--pol', '/p'], /--pol/],
  [[...NODE, '--config', '/nowhere'], /--config \/nowhere cannot be read/],
]

for (const [flags, message] of REFUSED) {
  test(`refused: ${flags.join(' ').slice(0, 90) || '(no flags)'}, ${message}`, (t) => {
    t.throws(() => readConfig(flags), { instanceOf: UsageError, message })
  })
}

test('a file has the same names, flags win, and what is misspelt in it is refused', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ublk-csi-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'config.yaml')
  const read = (text: string, ...flags: string[]): Config => {
    writeFileSync(file, text)
    return readConfig(['--config', file, ...flags]) as Config
  }
  const text = 'mode: all\nprovider: rds\nendpoint: unix:///a\nnode-id: n\nmax-volumes: 8\nrds:\n  address: router\n'
  t.like(read(text, '--node-id', 'm'), { nodeId: 'm', maxVolumes: 8, rds: { address: 'router' } })
  t.throws(() => read(`${text}nodeid: x\n`), { message: /"nodeid" is no setting/ })
  t.throws(() => read('rds: 1\n'), { message: /"rds" must be a map/ })
  t.throws(() => read('[]'), { message: /must be a map/ })
})
