/** What is measured, by whom, and what our figure must reach. */

/** What one run of a program prints: nanoseconds per item. */
export interface Sample {
  wallNanoseconds: number
  /** Of all threads of the process, the kernel's share included. */
  cpuNanoseconds: number
}

export interface Measure {
  name: string
  title: string
  contestants: readonly Contestant[]
  /** What counts: time that passes, or CPU time where one thread does all and others of the machine may only come in between. */
  by: keyof Sample
  /** Needs one CPU only and no disk: takes part where instructions are counted. */
  isCountable: boolean
  floor?: { nanoseconds: number } | { times: number; of: Contestant }
}

export interface Results {
  environment: string
  isCounted: boolean
  runs: Array<{ measure: string; contestant: Contestant; round: number } & Sample>
}

export const contestants = ['ours', 'glommio', 'monoio', 'compio', 'rtrb', 'raw'] as const
export type Contestant = (typeof contestants)[number]

const executors = ['ours', 'glommio', 'monoio', 'compio'] as const
const queues = ['ours', 'rtrb'] as const

export const measures: Measure[] = [
  {
    name: 'switch',
    title: 'task switch',
    contestants: executors,
    by: 'cpuNanoseconds',
    isCountable: true,
    floor: { nanoseconds: 30 },
  },
  {
    name: 'spawn-alone',
    title: 'spawn of a task',
    contestants: executors,
    by: 'cpuNanoseconds',
    isCountable: true,
    floor: { nanoseconds: 100 },
  },
  { name: 'spawn', title: 'spawn, run and join of one task', contestants: executors, by: 'cpuNanoseconds', isCountable: true },
  { name: 'spawn-many', title: 'spawn and join of 100 000 tasks, each', contestants: executors, by: 'cpuNanoseconds', isCountable: true },
  { name: 'timers', title: 'timer storm, CPU time of each', contestants: executors, by: 'cpuNanoseconds', isCountable: true },
  { name: 'read-qd1', title: '4K O_DIRECT random read, QD1', contestants: executors, by: 'wallNanoseconds', isCountable: false },
  { name: 'read-qd1', title: 'the same, CPU time', contestants: executors, by: 'cpuNanoseconds', isCountable: false },
  { name: 'read-qd32', title: '4K O_DIRECT random read, QD32', contestants: executors, by: 'wallNanoseconds', isCountable: false },
  { name: 'read-qd32', title: 'the same, CPU time', contestants: executors, by: 'cpuNanoseconds', isCountable: false },
  {
    name: 'ping-pong',
    title: 'round trip between two CPUs',
    contestants: [...executors, 'raw'],
    by: 'wallNanoseconds',
    isCountable: false,
    floor: { times: 1.1, of: 'raw' },
  },
  {
    name: 'spsc-one-thread',
    title: 'spsc push and pop on one thread',
    contestants: queues,
    by: 'wallNanoseconds',
    isCountable: true,
    floor: { times: 1.2, of: 'rtrb' },
  },
  {
    name: 'spsc-64',
    title: 'spsc of 64 between two CPUs, an item',
    contestants: queues,
    by: 'wallNanoseconds',
    isCountable: false,
    floor: { times: 1.2, of: 'rtrb' },
  },
  {
    name: 'spsc-1024',
    title: 'spsc of 1024 between two CPUs, an item',
    contestants: queues,
    by: 'wallNanoseconds',
    isCountable: false,
    floor: { times: 1.2, of: 'rtrb' },
  },
]
