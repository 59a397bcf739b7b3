/**
 * Every way of the driver that kublk has too, with the same target and the same shape: served by us, with two schedulings of the server, and by
 * two servers of kublk. What those two differ by is what a figure can tell.
 *
 * The words of the table are options of ours (bench/serve.ts) and of kublk's command line.
 */
import type { DeviceOptions } from 'ublk'
import type { Measure, Side } from './figures.ts'
import type { Job } from './fio.ts'

export interface DriverMode {
  name: string
  ours: Partial<DeviceOptions>
  kublk: string[]
  /** kublk's loop target refuses this way. */
  nullOnly?: true
}

/** The schedulings of our server: the second leaves the CPU to others, which kublk has no option for. */
export const schedulings: Record<'ours' | 'yielding', { suffix: string; options: Partial<DeviceOptions> }> = {
  ours: { suffix: '', options: {} },
  yielding: { suffix: ', preempt: false', options: { preempt: false } },
}

/** Of the name of kublk's second server. */
export const AGAIN = ', again'

export const modes: DriverMode[] = [
  { name: 'copy', ours: { dataPath: 'copy' }, kublk: [] },
  { name: 'get-data', ours: { dataPath: 'get-data' }, kublk: ['-g'] },
  { name: 'user-copy', ours: { dataPath: 'user-copy' }, kublk: ['-u'] },
  { name: 'zero-copy', ours: { dataPath: 'zero-copy' }, kublk: ['-z'] },
  { name: 'auto-zero-copy', ours: { dataPath: 'auto-zero-copy' }, kublk: ['--auto_zc'] },
  {
    name: 'auto-zero-copy, fallback',
    ours: { dataPath: 'auto-zero-copy', zeroCopyFallback: 'always' },
    kublk: ['-z', '--auto_zc', '--auto_zc_fallback'],
    nullOnly: true,
  },
  { name: 'batch', ours: { dataPath: 'copy', batch: true }, kublk: ['-b'] },
  { name: 'batch, auto-zero-copy', ours: { dataPath: 'auto-zero-copy', batch: true }, kublk: ['-b', '--auto_zc'] },
  { name: 'per io', ours: { dataPath: 'copy', threads: 2, perIo: true }, kublk: ['--per_io_tasks', '--nthreads', '2'] },
  { name: 'plain files', ours: { dataPath: 'copy', fixedFiles: false }, kublk: ['--no_ublk_fixed_fd'] },
]

/** One job in one way of the driver, and who does it. */
export interface ModeFigure {
  kind: 'mode'
  id: string
  title: string
  measure: Measure
  /** Figures that vary alike. */
  family: string
  /** Names as in bench/contestants.ts. */
  sides: Record<'ours' | 'yielding' | 'kublk' | 'again', Side>
}

/** Where a way is measured: with our target and kublk's, and what is read of each job. */
const targets: Array<{ ours: string; kublk: string; jobs: Partial<Record<Job, Measure>> }> = [
  { ours: 'null', kublk: 'null', jobs: { 'read-4k-qd64': 'rate', 'write-4k-qd64': 'rate' } },
  {
    ours: 'file',
    kublk: 'loop',
    jobs: {
      'read-4k-qd64': 'rate',
      'write-4k-qd64': 'rate',
      'read-128k-qd16': 'bytesPerSecond',
      'write-128k-qd16': 'bytesPerSecond',
    },
  },
]

/** For `bench/run --modes`. */
export const modeFigures: ModeFigure[] = modes.flatMap(({ name, nullOnly }) =>
  targets
    .filter(({ ours }) => ours === 'null' || !nullOnly)
    .flatMap(({ ours, kublk, jobs }) =>
      (Object.entries(jobs) as Array<[Job, Measure]>).map(([job, measure]): ModeFigure => {
        const side = (contestant: string): Side => ({ contestant, job })
        return {
          kind: 'mode',
          id: `${ours}-${name.replaceAll(/[ ,]+/g, '-')}-${job}`,
          title: `\`${ours}\` ${name}, ${job}`,
          measure,
          family: `\`${ours}\` ${job.includes('128k') ? '128K' : '4K'}`,
          sides: {
            ours: side(`${ours}, ${name}${schedulings.ours.suffix}`),
            yielding: side(`${ours}, ${name}${schedulings.yielding.suffix}`),
            kublk: side(`kublk ${kublk}, ${name}`),
            again: side(`kublk ${kublk}, ${name}${AGAIN}`),
          },
        }
      }),
    ),
)
