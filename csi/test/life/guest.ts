/**
 * The life of a volume with real mounts and kill -9 at every arrow: guest.ts PROVIDER [FILESYSTEM:VICTIM…]. The last line is
 * `N passed, N failed`: one for each life, one for what it leaves behind.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { status } from '@grpc/grpc-js'
import { Lab, type Provider, type Victim } from './lab.ts'
import { Life } from './life.ts'

const directory = '/run/csi-life'

const [provider = 'ublk', ...wishes] = process.argv.slice(2) as [Provider, ...string[]]
const lives = (wishes.length === 0 ? ['ext4:plugin', 'ext4:backend', 'xfs:plugin', 'xfs:backend', 'btrfs:backend'] : wishes).map(
  (wish) => wish.split(':') as [string, Victim],
)
const lab = await Lab.start(provider, directory)
let passed = 0
let failed = 0
for (const [number, [filesystem, victim]] of lives.entries()) {
  const title = `${provider}, ${filesystem}, kill -9 of the ${victim} at every arrow`
  const faultsBefore = lab.counts.faults
  const begunMs = performance.now()
  try {
    await new Life(lab, filesystem, victim, number).live()
    passed += 1
    console.log(`ok ${title}: ${lab.counts.faults - faultsBefore} faults, ${Math.round((performance.now() - begunMs) / 1000)} s`)
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
console.log(`${lives.length} lives on ${provider}, ${lab.counts.faults} faults injected, ${lab.counts.retries} calls made again (${codes})`)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed > 0 ? 1 : 0)

async function until(isSo: () => boolean, limitMs: number): Promise<void> {
  const deadline = performance.now() + limitMs
  while (!isSo() && performance.now() < deadline) await delay(50)
}
