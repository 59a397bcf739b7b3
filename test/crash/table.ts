/**
 * The table of the crash matrix: how a server ends, what the device's recovery is, how its data moves, and what its user does meanwhile.
 */
import type { Recovery } from '../../src/index.ts'

/** How the server ends. */
export const ENDS = ['kill -9', 'panic', 'stop', 'delete', 'worker death', 'two signals', 'two signals, ublk add'] as const
export type End = (typeof ENDS)[number]

/** What is done about it, with the flags that it needs. */
export const POLICIES: Record<Recovery, string[]> = {
  off: [],
  requeue: ['USER_RECOVERY'],
  reissue: ['USER_RECOVERY_REISSUE'],
  'fail-io': ['USER_RECOVERY_FAIL_IO'],
}

/** Buffer modes, and batches, with the flags that they need. As in the matrix: the bit of SUPPORT_ZERO_COPY alone says nothing. */
export const MODES: Record<string, string[]> = {
  copy: [],
  'get-data': ['NEED_GET_DATA'],
  'user-copy': ['USER_COPY'],
  'zero-copy': ['SUPPORT_ZERO_COPY', 'AUTO_BUF_REG'],
  'auto-zero-copy': ['AUTO_BUF_REG'],
  batch: ['BATCH_IO'],
  shmem: ['SHMEM_ZC'],
}

/**
 * What the device's user does: nothing; writes, and reads that are compared; a flush after every write that is not a FUA one, on a slow
 * device; files on ext4, each synced.
 */
export const LOADS = ['idle', 'verify', 'flush', 'files'] as const
export type Load = (typeof LOADS)[number]

export interface Cell {
  end: End
  recovery: Recovery
  mode: string
  load: Load
}

/** Workers serve JavaScript, whose data is copied; a process that signals end is a Node.js one, whatever its target. */
const modesOf: Record<End, string[]> = {
  'kill -9': Object.keys(MODES),
  panic: Object.keys(MODES),
  stop: Object.keys(MODES),
  delete: Object.keys(MODES),
  'worker death': ['copy'],
  'two signals': Object.keys(MODES),
  'two signals, ublk add': ['copy', 'auto-zero-copy', 'batch'],
}

/** A file system sends the same requests whatever the mode, and takes longest. */
const MODES_OF_FILES = ['copy', 'auto-zero-copy']

export function allCells(): Cell[] {
  const cells = ENDS.flatMap((end) =>
    modesOf[end].flatMap((mode) =>
      Object.keys(POLICIES).flatMap((recovery) => LOADS.map((load): Cell => ({ end, mode, recovery: recovery as Recovery, load }))),
    ),
  )
  return cells.filter(({ load, mode }) => load !== 'files' || MODES_OF_FILES.includes(mode))
}

/** Every end with every policy, and all else in turn. */
export function someCells(): Cell[] {
  const cells = allCells()
  return ENDS.flatMap((end, row) =>
    Object.keys(POLICIES).flatMap((policy, column) => {
      const choices = cells.filter((cell) => cell.end === end && cell.recovery === policy)
      return choices.slice((row * 5 + column * 7) % choices.length).slice(0, 1)
    }),
  )
}

export function missingFlags({ recovery, mode }: Cell, has: (flag: string) => boolean): string[] {
  return [...POLICIES[recovery], ...(MODES[mode] ?? [])].filter((flag) => !has(flag))
}

export const cellName = ({ end, recovery, mode, load }: Cell): string => `${end}; ${recovery}; ${mode}; ${load}`

export interface CellResult {
  cell: Cell
  outcome: 'passed' | 'failed' | 'skipped'
  reason: string
}
