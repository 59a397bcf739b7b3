/**
 * The table of the matrix: every way that the data of a device can go, by dimension, and what each needs of the kernel. All cells come
 * from here; to add a way, add a row.
 */
import type { DeviceOptions, QueueOptions } from '../../src/index.ts'

interface Way {
  /** Flags of GET_FEATURES without which the kernel cannot go this way. */
  needs?: string[]
}

/** A file of huge pages, which the server and the checker map. */
export const SHARED_MEMORY = '/run/matrix/shared'

interface Mode extends Way {
  options: QueueOptions
  /** The server has a place for data in its own memory: a layer that keeps data back cannot lie over memory then. */
  hasPlaces?: boolean
  /** Data that no target asks for stays where it is: what a target without a store lets a reader see is not its own. */
  leavesData?: boolean
  /** The data of a request is in a fixed buffer of the ring. */
  hasFixedBuffers?: boolean
  /** Where the data would have to be waited for, threads of the kernel move it: requests on one block at the same time may mix. */
  isParallel?: boolean
}

const IN_FIXED_BUFFERS = { hasFixedBuffers: true, leavesData: true, isParallel: true }

/** How data moves between a request's pages and the server. */
export const MODES: Record<string, Mode> = {
  copy: { options: { dataPath: 'copy' } },
  'get-data': { options: { dataPath: 'get-data' }, needs: ['NEED_GET_DATA'], hasPlaces: true },
  'user-copy': { options: { dataPath: 'user-copy' }, needs: ['USER_COPY'], hasPlaces: true },
  // The bit of SUPPORT_ZERO_COPY is older than the feature; one of the next release tells whether it works.
  'zero-copy': { options: { dataPath: 'zero-copy' }, needs: ['SUPPORT_ZERO_COPY', 'AUTO_BUF_REG'], ...IN_FIXED_BUFFERS },
  'auto-zero-copy': { options: { dataPath: 'auto-zero-copy' }, needs: ['AUTO_BUF_REG'], ...IN_FIXED_BUFFERS },
  'auto-zero-copy, fallback': {
    options: { dataPath: 'auto-zero-copy', zeroCopyFallback: 'always' },
    needs: ['AUTO_BUF_REG'],
    ...IN_FIXED_BUFFERS,
  },
  shmem: { options: { sharedMemory: SHARED_MEMORY }, needs: ['SHMEM_ZC'], leavesData: true },
}

interface Layout extends Way {
  options: Pick<DeviceOptions, 'queues'> & QueueOptions
  /** Several threads serve: requests on one block at the same time may mix. */
  isParallel?: boolean
}

/** Which threads serve, and the form of their commands. */
export const LAYOUTS: Record<string, Layout> = {
  'one queue': { options: { queues: 1 } },
  'two queues': { options: { queues: 2 }, isParallel: true },
  'two queues, one thread': { options: { queues: 2, threads: 1 } },
  'three threads per I/O': { options: { queues: 2, threads: 3, perIo: true }, needs: ['PER_IO_DAEMON'], isParallel: true },
  batch: { options: { queues: 1, batch: true }, needs: ['BATCH_IO'] },
  'batch, two queues, one thread': { options: { queues: 2, threads: 1, batch: true }, needs: ['BATCH_IO'] },
  'plain files': { options: { queues: 1, fixedFiles: false } },
}

/** What a read brings. `image`: and the file behind holds the same. */
export type Keeps = 'data' | 'image' | 'nothing'

interface Target extends Way {
  keeps: Keeps
  isJavaScript?: true
  /** Written zone by zone. */
  isZoned?: true
  /** The kernel guards each block by protection information, which the target keeps. */
  isProtected?: true
  /** Costs much, and has nothing that only one way of the data shows: a small selection asks less of it. */
  isSlow?: true
}

/** Who answers. `test/matrix/targets.ts` makes them. */
export const TARGETS = {
  null: { keeps: 'nothing' },
  mem: { keeps: 'data' },
  file: { keeps: 'image' },
  'file, direct': { keeps: 'image' },
  'file with integrity': { keeps: 'image', needs: ['INTEGRITY'], isProtected: true, isSlow: true },
  'block device': { keeps: 'image' },
  stripe: { keeps: 'data' },
  mirror: { keeps: 'data' },
  nbd: { keeps: 'image', isSlow: true },
  'zoned, memory': { keeps: 'data', needs: ['ZONED'], isZoned: true },
  'zoned, file': { keeps: 'image', needs: ['ZONED'], isZoned: true },
  'fault over mem': { keeps: 'data' },
  'JavaScript, main thread': { keeps: 'data', isJavaScript: true },
  'JavaScript, worker': { keeps: 'data', isJavaScript: true },
  'JavaScript, synchronous worker': { keeps: 'data', isJavaScript: true },
} satisfies Record<string, Target>

export type TargetName = keyof typeof TARGETS
export const targetOf = (name: TargetName): Target => TARGETS[name]

export const BLOCK_SIZES = [512, 4096]

/** Kinds of requests, as `ublk-check sequence` or `zones` knows them; and a change below the device, which it must not believe. */
export const OPERATIONS = ['read', 'write', 'flush', 'fua', 'discard', 'write-zeroes', 'mixed', 'zone-commands', 'protection'] as const
export type Operation = (typeof OPERATIONS)[number]

/** Those that make sense for a target: zones are cleared by a reset, and take neither discards nor zeroing. */
export function operationsOf(name: TargetName): Operation[] {
  const { isZoned = false, isProtected = false } = targetOf(name)
  const without: Operation[] = isZoned ? ['discard', 'write-zeroes'] : ['zone-commands']
  if (!isProtected) without.push('protection')
  return OPERATIONS.filter((operation) => !without.includes(operation))
}

/** One device; each operation on it is a cell. */
export interface Group {
  mode: string
  layout: string
  target: TargetName
  blockSize: number
}

/** Combinations that the design has not; everything else is a cell. */
function isPossible({ mode, layout, target }: Group): boolean {
  const { isJavaScript, isZoned, isProtected } = targetOf(target)
  // A JavaScript backend has its data in its memory, and one thread per queue.
  if (isJavaScript) return mode === 'copy' && ['one queue', 'two queues'].includes(layout)
  // The zones belong to one thread and move by user copy (the driver takes zero copy besides, which is not made); it has no batches of them.
  if (isZoned) return mode === 'user-copy' && ['one queue', 'plain files'].includes(layout)
  // The driver moves integrity data by user copy only.
  if (isProtected && mode !== 'user-copy') return false
  // A socket takes no fixed buffers.
  if (target === 'nbd' && MODES[mode]?.hasFixedBuffers) return false
  if (target === 'fault over mem' && MODES[mode]?.hasPlaces) return false
  // The driver has no batches of requests that wait for their data.
  return !(mode === 'get-data' && layout.startsWith('batch'))
}

/** Every device of the matrix. */
export function allGroups(): Group[] {
  const groups = Object.keys(TARGETS).flatMap((target) =>
    Object.keys(MODES).flatMap((mode) =>
      Object.keys(LAYOUTS).flatMap((layout) =>
        BLOCK_SIZES.map((blockSize): Group => ({ mode, layout, target: target as TargetName, blockSize })),
      ),
    ),
  )
  return groups.filter(isPossible)
}

/** Few of the groups, in which every pair of values that occurs in any of them occurs. */
export function pairwise(groups: Group[]): Group[] {
  const pairsOf = ({ mode, layout, target, blockSize }: Group): string[] => {
    const values = [`mode ${mode}`, `layout ${layout}`, `target ${target}`, `block ${blockSize}`]
    return values.flatMap((one, index) => values.slice(index + 1).map((other) => `${one}; ${other}`))
  }
  const missing = new Set(groups.flatMap(pairsOf))
  const chosen: Group[] = []
  while (missing.size > 0) {
    const gain = (group: Group): number => pairsOf(group).filter((pair) => missing.has(pair)).length
    const best = groups.reduce((best, group) => (gain(group) > gain(best) ? group : best))
    chosen.push(best)
    for (const pair of pairsOf(best)) missing.delete(pair)
  }
  return chosen
}

/** What a device of a small selection is asked: of a slow target one device everything, and the others a mixture. */
export function operationsIn(selection: Group[], group: Group): Operation[] {
  const isOther = selection.find(({ target }) => target === group.target) !== group
  return targetOf(group.target).isSlow && isOther ? ['mixed'] : operationsOf(group.target)
}

/** Flags that a device needs and this kernel lacks. */
export function missingFlags({ mode, layout, target }: Group, has: (flag: string) => boolean): string[] {
  const needs = [MODES[mode], LAYOUTS[layout], targetOf(target)].flatMap((way) => way?.needs ?? [])
  return [...new Set(needs)].filter((flag) => !has(flag))
}

export const groupName = ({ mode, layout, target, blockSize }: Group): string => `${target}; ${mode}; ${layout}; ${blockSize} B`

/** What became of a cell. */
export interface CellResult {
  group: Group
  operation: Operation | 'history'
  outcome: 'passed' | 'failed' | 'skipped'
  /** Why it failed, or the flags for whose lack it was skipped. */
  reason: string
  /** Requests that the checker sent. */
  requests: number
}
