/**
 * A backend module that works, but for one place of the device: there it misbehaves as its option `does` says. Used on the main thread and
 * in workers, and by processes of their own.
 */
import process from 'node:process'
import type { Backend } from '../../src/index.ts'

export const DEVICE_BYTES: number = 8 << 20
/** Where neither the partition scan nor udev looks. */
export const BAD_OFFSET: number = (3 << 20) + 4096

const failure = (message: string, details: object = {}): Error => Object.assign(new Error(message), details)
const forever = (): Promise<never> => new Promise(() => {})

/** What happens at the bad place. */
export const MISDEEDS: Record<string, () => unknown> = {
  throws: () => {
    throw failure('the cache is broken')
  },
  'throws ENOSPC': () => {
    throw failure('quota exceeded', { code: 'ENOSPC' })
  },
  'throws errno': () => {
    throw failure('sector lost', { errno: -61 })
  },
  'throws EROFS': () => {
    throw failure('the store is read-only', { code: 'EROFS' })
  },
  rejects: () => Promise.reject(failure('connection lost', { code: 'ETIMEDOUT' })),
  'returns errno': () => -28,
  'returns too much': () => 8192,
  'returns text': () => 'ok',
  'returns nothing done': () => 0,
  'returns a promise': async () => {},
  'never answers': forever,
  exits: () => process.exit(3),
  'fails later': () => {
    setTimeout(() => {
      throw failure('nobody catches this')
    }, 1)
    return forever()
  },
  spins: () => {
    for (;;);
  },
}

export default function misbehaving({ does, sync = false }: { does?: string; sync?: boolean }): Backend {
  const bad = MISDEEDS[does ?? '']
  if (bad === undefined) throw new Error(`there is no misdeed ${does}`)
  const handler = (_: Buffer, offset: number) => (offset === BAD_OFFSET ? (bad() as number) : undefined)
  return { size: DEVICE_BYTES, ...(sync ? { sync: true as const } : {}), read: handler, write: handler }
}
