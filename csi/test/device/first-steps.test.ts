/** The commands of docs/csi/first-steps.md do what it says, as they stand there. In the VM, after `make build`. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import test from 'ava'

const root = new URL('../../..', import.meta.url).pathname
const commands = /^```sh\n([\s\S]*?)^```/m.exec(readFileSync(`${root}docs/csi/first-steps.md`, 'utf8'))![1]!

test('from nothing to a volume that was written and read, in under ten commands', async (t) => {
  t.timeout(300_000)
  t.true(commands.trim().split('\n').length + 1 < 10)
  // Job control, as at a prompt: the two in the background end with the shell's `kill`.
  const script = `set -e\n${commands}\nkill %1 %2\nwait`
  const shell = spawn('bash', ['-c', script], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  for (const stream of [shell.stdout, shell.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (said += text))
  const [code] = (await once(shell, 'close')) as [number]
  t.is(code, 0, said)
  t.regex(said, /it reads: written through NVMe\/TCP\n/)
  t.log(said.split('\n').filter((line) => / ms$/.test(line)))
  t.deepEqual(readdirSync('/tmp/router/files/raid10/csi'), [])
  t.deepEqual(existsSync('/sys/class/nvme') ? readdirSync('/sys/class/nvme') : [], [])
})
