/**
 * The table of test suites: what `make test` runs, in this order. To add a suite, add an entry.
 * What tells most comes first, for a run with a limit of time (`.ci/run`) leaves out what would not end in it.
 *
 * Commands run from the checkout's root, under Node 24, with no standard input. A suite must say how many tests passed
 * and failed; one that ran none has failed.
 */

/** How a suite tells its counts: see scripts/counts.ts. */
export type CountFormat = 'cargo' | 'tap' | 'closing-line'

export interface Suite {
  /** Unique; also the name of its log, target/test-logs/NAME.log. */
  name: string
  command: string[]
  counts: CountFormat
  /** `unit` needs no driver, `vm` boots real kernels; others pick a group for a command of the Makefile. */
  tags: Array<'unit' | 'vm' | 'simple-e2e' | 'e2e' | 'stress' | 'caged' | 'csi'>
  /** Limit for the whole suite. */
  timeoutSeconds: number
  /** Too long for `make test`: runs in `make verify` only. */
  fullOnly?: boolean
}

/** Kernels that every device suite runs on. */
const kernels = ['6.12', '6.18', '7.2']

/** The oldest and the newest of them, for suites that take long. */
const endKernels = ['6.12', '7.2']
/** Files of test/device and the time each may take in the emulated machine. */
const deviceTests = { data: 900, filesystem: 600, stack: 600, powercut: 300, life: 600, recovery: 900 }

/** The Node.js releases that the package supports. */
const nodes = ['22', '24', '26']

const ava = (glob: string): string[] => ['ava', '--tap', glob]
/** Time that `vm/run` has beyond its own limit to end the machine. */
const vmGraceSeconds = 60

/** Tests of ava in one boot, one file after the other: devices are the machine's, not a process's. */
const vmSuite = (name: string, glob: string, limitSeconds: number, options: string[] = []): Suite => ({
  name,
  command: ['vm/run', ...options, '--timeout', String(limitSeconds), '--', 'node_modules/.bin/ava', '--tap', '--concurrency=1', glob],
  counts: 'tap',
  tags: ['vm', 'e2e'],
  timeoutSeconds: limitSeconds + vmGraceSeconds,
})

export const suites: Suite[] = [
  { name: 'lint', command: ['scripts/lint'], counts: 'closing-line', tags: ['unit'], timeoutSeconds: 900 },
  { name: 'scripts', command: ava('scripts/**/*.test.ts'), counts: 'tap', tags: ['unit'], timeoutSeconds: 120 },
  { name: 'uapi', command: ['cargo', 'test', '-p', 'ublk-uapi'], counts: 'cargo', tags: ['unit'], timeoutSeconds: 600 },
  {
    name: 'rust',
    command: ['cargo', 'test', '--workspace', '--exclude', 'ublk-uapi'],
    counts: 'cargo',
    tags: ['unit'],
    timeoutSeconds: 900,
  },
  {
    // A directory of its own: other flags of the compiler would build everything else again.
    name: 'loom',
    command: 'env RUSTFLAGS=--cfg=loom cargo test -p ublk-executor --lib --test loom --release --target-dir target/loom'.split(' '),
    counts: 'cargo',
    tags: ['unit'],
    timeoutSeconds: 600,
  },
  { name: 'asan', command: ['scripts/asan'], counts: 'cargo', tags: ['unit'], timeoutSeconds: 900 },
  { name: 'asan, long', command: ['scripts/asan', '--full'], counts: 'cargo', tags: ['unit'], timeoutSeconds: 1200, fullOnly: true },
  { name: 'valgrind', command: ['scripts/valgrind'], counts: 'cargo', tags: ['unit'], timeoutSeconds: 900 },
  { name: 'typescript', command: ava('test/unit/**/*.test.ts'), counts: 'tap', tags: ['unit'], timeoutSeconds: 300 },
  { name: 'cli', command: ava('cli/test/*.test.ts'), counts: 'tap', tags: ['unit'], timeoutSeconds: 300 },
  { name: 'csi', command: ava('csi/test/{unit,rds,routeros}/**/*.test.ts'), counts: 'tap', tags: ['unit'], timeoutSeconds: 600 },
  { name: 'packages', command: ['scripts/check-packages'], counts: 'closing-line', tags: ['unit'], timeoutSeconds: 300 },
  ...kernels.map(
    (kernel): Suite => ({
      name: `rust on ${kernel}`,
      command: ['test/rust-on-kernel', kernel],
      counts: 'cargo',
      tags: ['vm', 'e2e'],
      timeoutSeconds: 1400,
      fullOnly: !endKernels.includes(kernel),
    }),
  ),
  {
    name: 'rust on 7.2, as many as promised',
    command: ['env', 'UBLK_WHOLE=1', 'test/rust-on-kernel', '7.2', 'many'],
    counts: 'cargo',
    tags: ['vm', 'stress'],
    timeoutSeconds: 3600,
    fullOnly: true,
  },
  ...endKernels.flatMap((kernel) =>
    Object.entries(deviceTests).map(([name, limitSeconds]) => ({
      ...vmSuite(`${name} on ${kernel}`, `test/device/${name}.test.ts`, limitSeconds, ['--kernel', kernel]),
      // There the core's own tests, data, and the loss of power are enough for every day.
      fullOnly: !['data', 'powercut'].includes(name) && kernel !== '7.2',
    })),
  ),
  ...endKernels.map(
    (kernel): Suite => ({
      ...vmSuite(`data on ${kernel}, all shapes`, 'test/device/data.test.ts', 900, ['--kernel', kernel, '--env', 'UBLK_ALL_SHAPES=1']),
      fullOnly: true,
    }),
  ),
  { name: 'matrix control', command: ['test/matrix/control'], counts: 'tap', tags: ['vm', 'e2e'], timeoutSeconds: 700 },
  ...endKernels.map(
    (kernel): Suite => ({
      name: `matrix on ${kernel}, pairs`,
      command: ['scripts/node', 'test/matrix/run.ts', '--pairs', '--history', '10000', '--kernel', kernel],
      counts: 'closing-line',
      tags: ['vm', 'e2e'],
      timeoutSeconds: 1200,
    }),
  ),
  {
    name: 'matrix',
    command: ['scripts/node', 'test/matrix/run.ts'],
    counts: 'closing-line',
    tags: ['vm', 'e2e'],
    timeoutSeconds: 3 * 3600,
    fullOnly: true,
  },
  ...endKernels.map(
    (kernel): Suite => ({
      name: `crashes on ${kernel}, some`,
      command: ['scripts/node', 'test/crash/run.ts', '--some', '--kernel', kernel],
      fullOnly: kernel !== '7.2',
      counts: 'closing-line',
      tags: ['vm', 'e2e', 'stress'],
      timeoutSeconds: 900,
    }),
  ),
  {
    name: 'crashes',
    command: ['scripts/node', 'test/crash/run.ts'],
    counts: 'closing-line',
    tags: ['vm', 'stress'],
    timeoutSeconds: 2 * 3600,
    fullOnly: true,
  },
  {
    ...vmSuite('growth, 1000 devices', 'test/boundary/growth.test.ts', 1800, ['--env', 'UBLK_CYCLES=1000']),
    tags: ['vm', 'stress'],
    fullOnly: true,
  },
  ...nodes.map((node) => ({
    ...vmSuite(`boundary on Node ${node}`, 'test/boundary/boundary.test.ts', 600, ['--node', node]),
    fullOnly: node === '24', // all other suites run on it
  })),
  vmSuite('cli on 7.2', 'cli/test/device/{lifecycle,failures}.test.ts', 1500),
  { name: 'install', command: ['test/install/run'], counts: 'tap', tags: ['vm', 'e2e'], timeoutSeconds: 800 },
  vmSuite('cli recovery on 7.2', 'cli/test/device/recovery.test.ts', 1200),
  vmSuite('cli serve on 7.2', 'cli/test/device/serve.test.ts', 1800),
  {
    // With counted instructions a second is a second, whatever else the host does.
    ...vmSuite('cli serve, resumes in time', 'cli/test/device/serve.test.ts', 1200, ['--icount', '--env', 'UBLK_COUNTED=1']),
    fullOnly: true,
  },
  { ...vmSuite('csi devices', 'csi/test/device/*.test.ts', 1200), tags: ['vm', 'e2e', 'csi'] },
  {
    // Builds helm and kubeconform once, which takes minutes.
    name: 'csi chart',
    command: ava('csi/test/deploy/*.test.ts'),
    counts: 'tap',
    tags: ['unit', 'csi'],
    timeoutSeconds: 1200,
    fullOnly: true,
  },
  // One run is enough for every day; `make sanity` has them all.
  ...['ublk mount', 'ublk block', 'rds mount', 'rds block'].map(
    (run): Suite => ({
      name: `csi-sanity, ${run}`,
      command: ['csi/test/sanity/run', ...run.split(' ')],
      counts: 'closing-line',
      tags: ['vm', 'e2e', 'csi'],
      timeoutSeconds: 1800,
      fullOnly: run !== 'ublk mount',
    }),
  ),
  {
    name: 'csi life on ublk, 7.2',
    command: ['csi/test/life/run', 'ublk', 'ext4:plugin', '--', '--kernel', '7.2'],
    counts: 'closing-line',
    tags: ['vm', 'stress', 'csi'],
    timeoutSeconds: 1200,
    fullOnly: true,
  },
  ...endKernels.flatMap((kernel) =>
    ['ublk', 'rds'].map(
      (provider): Suite => ({
        name: `csi lives on ${provider}, ${kernel}`,
        command: ['csi/test/life/run', provider, '--', '--kernel', kernel],
        counts: 'closing-line',
        tags: ['vm', 'stress', 'csi'],
        timeoutSeconds: 3600,
        fullOnly: true,
      }),
    ),
  ),
  vmSuite('examples', 'test/examples/*.test.ts', 1200),
  { name: 'errors', command: ['test/errors/run'], counts: 'tap', tags: ['vm', 'e2e'], timeoutSeconds: 1800 },
  vmSuite('cli unprivileged on 7.2', 'cli/test/device/unprivileged.test.ts', 900),
  vmSuite('cli targets on 7.2', 'cli/test/device/targets.test.ts', 900),
  vmSuite('cli signals on 7.2', 'cli/test/device/signals.test.ts', 900),
  vmSuite('cli zoned on 7.2', 'cli/test/device/zoned.test.ts', 600),
  { name: 'caged', command: ['test/caged/run'], counts: 'tap', tags: ['vm', 'e2e', 'caged'], timeoutSeconds: 700 },
  { ...vmSuite('growth', 'test/boundary/growth.test.ts', 600), tags: ['vm', 'stress'] },
  {
    // What it has and 6.12 has not is ways for data; the rest of the tests does not differ.
    name: 'rust on 6.18, data paths',
    command: ['test/rust-on-kernel', '6.18', 'paths'],
    counts: 'cargo',
    tags: ['vm', 'e2e'],
    timeoutSeconds: 600,
  },
  { name: 'vm harness', command: ['vm/test.sh'], counts: 'closing-line', tags: ['vm'], timeoutSeconds: 1200, fullOnly: true },
]
