/**
 * Starts the program `ublk` again and again and prints the milliseconds of each start, as JSON (`Starts` in bench/results.ts).
 *
 *   node bench/startup.ts COUNT
 *
 * A recovery is over when a read that waits for it is answered: the program may still have to end then.
 */
import { execFile, execFileSync } from 'node:child_process'
import { open } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { deviceInfo } from 'ublk'
import { openersOf } from './processes.ts'
import type { Starts } from './results.ts'

const PROGRAM = fileURLToPath(new URL('../cli/bin/run.js', import.meta.url))
/** No two reads share what the kernel reads ahead. */
const APART = 1 << 20

const run = promisify(execFile)
const node = async (...words: string[]): Promise<string> => (await run(process.execPath, words)).stdout.trim()
const ublk = (...words: string[]): Promise<string> => node(PROGRAM, ...words)

async function milliseconds(work: () => Promise<unknown>): Promise<number> {
  execFileSync('udevadm', ['settle'])
  const begin = performance.now()
  await work()
  return performance.now() - begin
}

/** From the start of `ublk recover` to the answer of a read that the device holds back. */
async function recovery(path: string, offset: number): Promise<number> {
  const id = Number(/\d+$/.exec(path)?.[0])
  const device = await open(path)
  for (const pid of openersOf(path.replace('ublkb', 'ublkc'))) process.kill(pid, 'SIGKILL')
  while ((await deviceInfo(id)).state !== 'quiesced') await new Promise((resolve) => setTimeout(resolve, 20))
  const answered = device.read(Buffer.alloc(512), 0, 512, offset)
  let ended: Promise<string> | undefined
  const taken = await milliseconds(() => {
    ended = ublk('recover', path)
    return answered
  })
  await ended
  await device.close()
  return taken
}

const starts: Starts = { node: [], version: [], list: [], recover: [] }
const path = await ublk('add', 'mem', '--size', '64M', '--recovery', 'requeue')
// The first round brings what the others find in memory.
for (let round = 0; round <= Number(process.argv[2]); round++) {
  const one = {
    node: await milliseconds(() => node('--eval', '0')),
    version: await milliseconds(() => ublk('--version')),
    list: await milliseconds(() => ublk('list')),
    recover: await recovery(path, round * APART),
  }
  if (round > 0) for (const [name, value] of Object.entries(one)) starts[name as keyof Starts].push(value)
}
await ublk('del', path)
console.log(JSON.stringify(starts))
