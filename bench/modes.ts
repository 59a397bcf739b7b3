/**
 * Every way of the driver that kublk has too: each is a contestant of ours and one of kublk's, with the same target and the same shape.
 *
 * The words of the table are options of ours (bench/serve.ts) and of kublk's command line.
 */
import type { DeviceOptions } from 'ublk'

export interface DriverMode {
  name: string
  ours: Partial<DeviceOptions>
  kublk: string[]
  /** kublk's loop target refuses this way. */
  nullOnly?: true
}

/** The schedulings of our server: the second leaves the CPU to others, which kublk has no option for. */
export const schedulings: Array<{ suffix: string; options: Partial<DeviceOptions> }> = [
  { suffix: '', options: {} },
  { suffix: ', `preempt: false`', options: { preempt: false } },
]

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
