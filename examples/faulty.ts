/**
 * A memory disk with faults, to see how file systems, databases and your own program take them.
 *
 *     ublk add ./examples/faulty.ts --set size=256MiB --set readErrors=0.001 --set seed=7 --set latencyMs=20
 *
 * Which blocks are bad depends on the seed alone, not on the order of requests: the same seed gives the same faults again.
 * `withFaults` puts the same faults before any other backend that is a plain object.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { type Backend, type BackendResult, parseSize, type Size } from 'ublk'
import memory from './memory.ts'

const BLOCK_BYTES = 4096

/** Numbers may be text: that is how `--set` gives them. */
export interface Faults {
  /** Chooses the bad blocks; default 1. */
  seed?: number | string
  /** Share of the blocks of 4096 bytes that cannot be read, 0 to 1; default 0. */
  readErrors?: number | string
  /** Share of the blocks that cannot be written. */
  writeErrors?: number | string
  /** A part of the disk that can be neither read nor written, such as '1MiB-2MiB'. */
  badRange?: string
  /** What the user of the device gets: 'EIO' (default), 'ENOSPC', 'ETIMEDOUT', 'ENODATA' … */
  error?: string
  /** Every read and write waits so long first. */
  latencyMs?: number | string
}

export default function faulty({ size = '64MiB', ...faults }: Faults & { size?: Size } = {}): Backend {
  return withFaults(memory({ size }), faults)
}

export function withFaults(inner: Backend, faults: Faults): Backend {
  const seed = Number(faults.seed ?? 1)
  const rates = { read: Number(faults.readErrors ?? 0), write: Number(faults.writeErrors ?? 0) }
  const latencyMs = Number(faults.latencyMs ?? 0)
  const [badStart, badEnd] = parseRange(faults.badRange)

  const isFaulty = (op: 'read' | 'write', block: number): boolean => {
    const start = block * BLOCK_BYTES
    return (start < badEnd && start + BLOCK_BYTES > badStart) || isBad(seed, op, block, rates[op])
  }
  const check = (op: 'read' | 'write', offset: number, length: number): void => {
    const end = (offset + length) / BLOCK_BYTES
    for (let block = Math.floor(offset / BLOCK_BYTES); block < end; block++) {
      if (isFaulty(op, block)) throw Object.assign(new Error(`block ${block} is bad`), { code: faults.error ?? 'EIO' })
    }
  }
  type Answer = BackendResult | Promise<BackendResult>
  const late = (serve: () => Answer): Answer => (latencyMs > 0 ? delay(latencyMs).then(serve) : serve())

  return {
    ...inner,
    sync: inner.sync === true && latencyMs === 0,
    read: (buf, offset, req) =>
      late(() => {
        check('read', offset, buf.length)
        return inner.read(buf, offset, req)
      }),
    ...(inner.write && {
      write: (buf, offset, req) =>
        late(() => {
          check('write', offset, buf.length)
          return inner.write?.(buf, offset, req)
        }),
    }),
  }
}

/** Whether the seed makes this block bad for this operation: true for `rate` of all blocks. */
export function isBad(seed: number, op: 'read' | 'write', block: number, rate: number): boolean {
  let hash = Math.imul(seed, 0x9e3779b1) ^ Math.imul(block + 1, 0x85ebca6b) ^ (op === 'write' ? 0x27d4eb2f : 0)
  // The finalizer of MurmurHash3: every bit of the input moves every bit of the output.
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32 < rate
}

function parseRange(text: string | undefined): [start: number, end: number] {
  if (text === undefined) return [0, 0]
  const [start = '', end = ''] = text.split('-')
  return [parseSize(start, 'badRange'), parseSize(end, 'badRange')]
}
