/**
 * The life of a volume with real mounts and kill -9 at every arrow: guest.ts PROVIDER [seed=N] [FILESYSTEM:VICTIM…]. The last line is
 * `N passed, N failed`: one for each life, one for what it leaves behind.
 *
 * A kill that comes when the call has been answered already proves little: both are counted, and so many must hit.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { status } from '@grpc/grpc-js'
import { delaysOf } from './delays.ts'
import { Lab, type Provider, type Victim } from './lab.ts'
import { Life } from './life.ts'

const directory = '/run/csi-life'

/** Of all kills of a life, the part that must come while a call is at work. In a machine that is emulated nearly all do. */
const LEAST_HITS = 1 / 3

const [provider = 'ublk', ...words] = process.argv.slice(2) as [Provider, ...string[]]
const wishes = words.filter((word) => word.includes(':'))
const seed = Number(words.find((word) => word.startsWith('seed='))?.slice('seed='.length) ?? Math.floor(Math.random() * 2 ** 32))
console.log(`seed=${seed}`)
const delayMs = delaysOf(seed)
const lives = (wishes.length === 0 ? ['ext4:plugin', 'ext4:backend', 'xfs:plugin', 'xfs:backend', 'btrfs:backend'] : wishes).map(
  (wish) => wish.split(':') as [string, Victim],
)
const lab = await Lab.start(provider, directory)
let passed = 0
let failed = 0
for (const [number, [filesystem, victim]] of lives.entries()) {
  const title = `${provider}, ${filesystem}, kill -9 of the ${victim} at every arrow`
  const before = { ...lab.counts }
  const begunMs = performance.now()
  try {
    await new Life(lab, filesystem, victim, delayMs, number).live()
    const [kills, hits] = [lab.counts.kills - before.kills, lab.counts.hits - before.hits]
    const isHard = hits >= kills * LEAST_HITS
    if (isHard) passed += 1
    else failed += 1
    const seconds = Math.round((performance.now() - begunMs) / 1000)
    console.log(`${isHard ? 'ok' : 'FAILED (too few hits)'} ${title}: ${kills} kills, ${hits} while the call was at work, ${seconds} s`)
    await until(() => lab.leftovers().length === 0, 5_000)
    const left = lab.leftovers()
    if (left.length === 0) passed += 1
    else {
      failed += 1
      console.log(`FAILED ${title}: left behind ${left.join(', ')}`)
    }
  } catch (error) {
    console.log(`FAILED ${title}: ${(error as Error).stack}\n${lab.log()}`)
    console.log(`${passed} passed, ${failed + 1} failed`)
    // The driver is left as it is: a writer that waits for it could not end.
    process.exit(1)
  }
}
await lab.end()
const codes = [...lab.counts.codes].map(([code, count]) => `${status[code]} ${count}`).join(', ')
const { kills, hits, retries } = lab.counts
console.log(
  `${lives.length} lives on ${provider}, ${kills} kills, ${hits} while the call was at work, ${retries} calls made again (${codes})`,
)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed > 0 ? 1 : 0)

async function until(isSo: () => boolean, limitMs: number): Promise<void> {
  const deadline = performance.now() + limitMs
  while (!isSo() && performance.now() < deadline) await delay(50)
}
