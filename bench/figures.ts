/**
 * The figures that are measured, and the floor of each.
 *
 * A figure compares two sides of one boot: what a contestant reached in a job, or a value of its own. The guest's program reads from
 * here what to run, the report what to print.
 */
import type { Job } from './fio.ts'

/** What is read of a run. */
export type Measure = 'rate' | 'bytesPerSecond' | 'microsecondsPerRequest' | 'serverNanosecondsPerRequest'

/** A contestant (name in bench/contestants.ts) in a job. */
export interface Side {
  contestant: string
  job: Job
}

interface Common {
  id: string
  title: string
}

/** Ours against a peer's. */
export interface ComparedFigure extends Common {
  kind: 'compared'
  measure: Measure
  ours: Side
  peer: Side
  floor: { atLeastTimes: number } | { atMostTimes: number } | { atMostMore: number } | { none: true }
}

/** Programs whose start is measured: Node.js alone, `ublk --version`, `ublk list`, and `ublk recover` until I/O goes on. */
export const STARTS = ['node', 'version', 'list', 'recover'] as const
export type Start = (typeof STARTS)[number]

export const isStart = (value: string): value is Start => (STARTS as readonly string[]).includes(value)

/** A value that needs no peer. */
export interface SingleFigure extends Common {
  kind: 'single'
  value: 'createToLive' | 'idleWakeUps' | 'idleResidentBytes' | Start
  unit: string
  /** Null for one that is there to compare others with. */
  atMost: number | null
}

export type Figure = ComparedFigure | SingleFigure

const READ: Job = 'read-4k-qd64'
const WRITE: Job = 'write-4k-qd64'
const ALONE = 'read-4k-qd1'

export const figures: Figure[] = [
  atLeast('null-read', '`null` 4K read QD64', 'rate', ['null', READ], ['kublk null', READ], 1),
  atLeast('null-write', '`null` 4K write QD64', 'rate', ['null', WRITE], ['kublk null', WRITE], 1),
  atMost('null-cpu', '`null` server CPU per read, QD64', 'serverNanosecondsPerRequest', ['null', READ], ['kublk null', READ], 1),
  atMost('null-cpu-qd1', '`null` server CPU per read, QD1', 'serverNanosecondsPerRequest', ['null', ALONE], ['kublk null', ALONE], 1),
  atMost('null-qd1', '`null` 4K read QD1', 'microsecondsPerRequest', ['null', ALONE], ['kublk null', ALONE], 1),

  atLeast(
    'tag-tasks-read',
    '`null` by a task for each tag, 4K read QD64',
    'rate',
    ['task for each tag', READ],
    ['loop of the data plane', READ],
    0.97,
  ),
  atMost(
    'tag-tasks-qd1',
    '`null` by a task for each tag, 4K read QD1',
    'microsecondsPerRequest',
    ['task for each tag', ALONE],
    ['loop of the data plane', ALONE],
    1.03,
  ),

  atLeast('mem-read', '`mem` 4K read QD64', 'rate', ['mem', READ], ['kernel loop', READ], 1),
  atLeast('mem-write', '`mem` 4K write QD64', 'rate', ['mem', WRITE], ['kernel loop', WRITE], 0.98),
  ...large('mem', 'mem-128k', '`mem`', null),
  ...large('mem, auto-zero-copy', 'mem-zc-128k', '`mem` auto-zero-copy', 0.9),

  atLeast('file-read', '`file` on tmpfs 4K read QD64', 'rate', ['file', READ], ['kublk loop', READ], 1.35),
  atLeast('file-write', '`file` on tmpfs 4K write QD64', 'rate', ['file', WRITE], ['kublk loop', WRITE], 1.35),
  atMost('file-qd1', '`file` on tmpfs 4K read QD1', 'microsecondsPerRequest', ['file', ALONE], ['kublk loop', ALONE], 1),
  informative('file-zc-read', '`file` 4K read QD64 against auto-zero-copy', ['file', READ], ['kublk loop, auto-zero-copy', READ]),
  informative('file-zc-write', '`file` 4K write QD64 against auto-zero-copy', ['file', WRITE], ['kublk loop, auto-zero-copy', WRITE]),

  ...javascript('js-sync', 'JS worker, sync', 0.9),
  {
    ...atMost('js-sync-qd1', 'JS worker, sync: 4K read QD1', 'microsecondsPerRequest', ['JS worker, sync', ALONE], ['mem', ALONE], 0),
    floor: { atMostMore: 6 },
  },
  ...javascript('js-async', 'JS worker, async', 0.7),
  ...javascript('js-main', 'JS main thread, sync', 0.8),

  { kind: 'single', id: 'create', title: 'create → live, median of 50', value: 'createToLive', unit: 'ms', atMost: 2 },
  { kind: 'single', id: 'idle', title: 'idle device of `ublk add`: wake-ups per second', value: 'idleWakeUps', unit: '', atMost: 0 },
  { kind: 'single', id: 'rss', title: 'idle JS server of `ublk add`: resident memory', value: 'idleResidentBytes', unit: 'MB', atMost: 80 },
  { kind: 'single', id: 'start-node', title: 'start to end of Node.js alone', value: 'node', unit: 'ms', atMost: null },
  { kind: 'single', id: 'start-version', title: 'start to end of `ublk --version`', value: 'version', unit: 'ms', atMost: 600 },
  { kind: 'single', id: 'start-list', title: 'start to end of `ublk list`', value: 'list', unit: 'ms', atMost: 600 },
  { kind: 'single', id: 'recover', title: 'start of `ublk recover` → I/O goes on', value: 'recover', unit: 'ms', atMost: 1000 },
]

type Pair = [contestant: string, job: Job]

function compared(id: string, title: string, measure: Measure, ours: Pair, peer: Pair, floor: ComparedFigure['floor']): ComparedFigure {
  const side = ([contestant, job]: Pair): Side => ({ contestant, job })
  return { kind: 'compared', id, title, measure, ours: side(ours), peer: side(peer), floor }
}

function atLeast(id: string, title: string, measure: Measure, ours: Pair, peer: Pair, times: number): ComparedFigure {
  return compared(id, title, measure, ours, peer, { atLeastTimes: times })
}

function atMost(id: string, title: string, measure: Measure, ours: Pair, peer: Pair, times: number): ComparedFigure {
  return compared(id, title, measure, ours, peer, { atMostTimes: times })
}

function informative(id: string, title: string, ours: Pair, peer: Pair): ComparedFigure {
  return compared(id, title, 'rate', ours, peer, { none: true })
}

function large(contestant: string, id: string, title: string, times: number | null): ComparedFigure[] {
  const floor = times === null ? { none: true as const } : { atLeastTimes: times }
  return (['read', 'write'] as const).map((direction) => {
    const job: Job = `${direction}-128k-qd16`
    return compared(
      `${id}-${direction}`,
      `${title} 128K ${direction} QD16`,
      'bytesPerSecond',
      [contestant, job],
      ['kernel loop', job],
      floor,
    )
  })
}

function javascript(id: string, contestant: string, times: number): ComparedFigure[] {
  return [
    atLeast(`${id}-read`, `${contestant}: 4K read QD64`, 'rate', [contestant, READ], ['mem', READ], times),
    atLeast(`${id}-write`, `${contestant}: 4K write QD64`, 'rate', [contestant, WRITE], ['mem', WRITE], times),
  ]
}
