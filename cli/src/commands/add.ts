import { resolve } from 'node:path'
import * as Args from '@oclif/core/args'
import * as Flags from '@oclif/core/flags'
import type * as Interfaces from '@oclif/core/interfaces'
import type { SharedMemory } from 'ublk'
import { BaseCommand, parseId, printWarning } from '../lib/base-command.ts'
import type { DescribedDevice } from '../lib/describe.ts'
import { reportOf, usage } from '../lib/failure.ts'
import { faultFlags } from '../lib/faults.ts'
import { launch } from '../lib/launch.ts'
import { parseCpus, parseIntegrity, parseTarget } from '../lib/parse-target.ts'
import { runCommand } from '../lib/run-command.ts'
import { DeviceServer } from '../lib/serve.ts'
import { boundStop, STOP_GRACE_MS, stopSignals } from '../lib/signals.ts'
import { baseOf, type DeviceSpec, formatTarget, isUnverified, NULL_SIZE, type ServeSpec } from '../lib/target.ts'
import { parseDurationMs } from '../lib/units.ts'
import { zoneFlags } from '../lib/zones.ts'

/** What `add --json` gives; `exitCode` is that of the command of `--run`. */
type AddResult = DescribedDevice | { device: DescribedDevice; exitCode: number }

export default class Add extends BaseCommand {
  static override summary = 'Make a block device and serve it.'
  static override description = `TARGET is one of

  null                    completes everything and stores nothing (size ${NULL_SIZE} unless --size is given)
  mem                     memory; needs --size
  file PATH               an image file or a block device
  stripe PATH PATH...     2 to 255 of them, chunk by chunk in turn (RAID 0)
  mirror PATH PATH...     2 to 8 of them with the same data (RAID 1)
  zoned [PATH]            a zoned disk in memory, or in a file and PATH.zones beside it; needs --size
  nbd URI                 an export of an NBD server: nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH,
                          or with TLS nbds://HOST/EXPORT?tls-certificates=DIR
  fault --over TARGET...  another target of these, with delays, errors, torn writes or the death of its server
  ./x.ts                  a JavaScript or TypeScript module whose default export is a backend, or a function (options) => backend

Prints the path of the device when it is live, and returns; a process of its own serves the device until \`ublk del\`. \
With --foreground this process serves it until SIGINT or SIGTERM; with --run it serves it while a command runs. \
In all three ways SIGINT and SIGTERM stop and remove the device.

A detached server has no terminal: to see what a backend prints, use --foreground.

Sizes are bytes, or numbers with a unit that is a power of 1024: 64M, 64MiB and 67108864 are the same.`

  static override usage = 'add TARGET [PATH...] [FLAGS]'
  static override strict = false

  static override examples = [
    { description: 'A gigabyte of memory', command: '<%= config.bin %> add mem --size 1G' },
    {
      description: 'An image file, made if it is missing, as /dev/ublkb3',
      command: '<%= config.bin %> add file ./disk.img --create -s 10G -n 3',
    },
    {
      description: 'A zoned disk with four conventional zones',
      command: '<%= config.bin %> add zoned ./zones.img -s 4G --zone-size 64M --conventional 4 --max-open 8',
    },
    {
      description: 'A backend of your own, with an option for its factory',
      command: '<%= config.bin %> add ./backend.ts --set url=http://127.0.0.1/disk.img',
    },
    {
      description: 'A device for as long as a command runs',
      command: `<%= config.bin %> add mem -s 64M --run 'mkfs.ext4 -q $UBLK_DEVICE && e2fsck -fn $UBLK_DEVICE'`,
    },
    {
      description: 'Two disks with the same data, made legs of a mirror',
      command: '<%= config.bin %> add mirror /dev/sdb /dev/sdc --create --direct',
    },
    {
      description: 'A disk image that is slow and fails one write in a hundred',
      command: '<%= config.bin %> add fault --over file ./disk.img --delay 10ms --error-rate 0.01 --error-ops write',
    },
    { description: 'Its path, for a script', command: 'dev=$(<%= config.bin %> add mem -s 64M) && mkfs.ext4 -q "$dev"' },
  ]

  static override args = {
    target: Args.string({ description: 'null, mem, file, stripe, mirror, zoned, nbd, fault, or the path of a module' }),
    path: Args.string({
      description: 'for file, stripe and mirror: the image files or block devices; for zoned: a file; for nbd: the URI',
    }),
  }

  static override flags = {
    id: Flags.string({ char: 'n', helpValue: 'N', summary: 'number of the device, /dev/ublkbN; default the lowest free one' }),
    queues: Flags.integer({ char: 'q', helpValue: 'COUNT', summary: 'hardware queues, one thread each; default 1' }),
    depth: Flags.integer({ char: 'd', helpValue: 'COUNT', summary: 'requests that may be open per queue, 1 to 4096; default 128' }),
    size: Flags.string({ char: 's', helpValue: 'SIZE', summary: 'size of the device; default what the target has' }),
    'block-size': Flags.integer({ helpValue: 'BYTES', summary: 'logical block size, 512 or 4096; default what the target has, else 512' }),
    'physical-block-size': Flags.integer({ helpValue: 'BYTES', summary: 'block size that users should prefer; default 4096' }),
    'max-io': Flags.string({ helpValue: 'SIZE', summary: 'longest read or write, 4K to 32M; default 512K' }),
    'read-only': Flags.boolean({ summary: 'refuse writes' }),
    rotational: Flags.boolean({ summary: 'announce a spinning disk: schedulers and file systems then order requests by place' }),
    'dma-align': Flags.integer({ helpValue: 'BYTES', summary: 'alignment of memory used with O_DIRECT, 2 to 4096; default 4' }),
    'max-segments': Flags.integer({ helpValue: 'COUNT', summary: 'most pieces of memory in a request, 1 to 65535; default 65535' }),
    'max-segment-size': Flags.string({ helpValue: 'SIZE', summary: 'longest piece, from 4K; default 4G - 1' }),
    'segment-boundary': Flags.string({ helpValue: 'SIZE', summary: 'a multiple of this is crossed by no piece, from 4K; default 4G' }),
    direct: Flags.boolean({ default: false, summary: 'for file, stripe, mirror: bypass the page cache (O_DIRECT)' }),
    create: Flags.boolean({ default: false, summary: 'for file, stripe, mirror: make or grow them to --size; make legs of a mirror' }),
    chunk: Flags.string({
      helpValue: 'SIZE',
      summary: 'for stripe: what goes to one before the next, a power of two from 4K; default 64K',
    }),
    ...zoneFlags,
    ...faultFlags,
    set: Flags.string({
      helpValue: 'KEY=VALUE',
      multiple: true,
      multipleNonGreedy: true,
      summary: 'for modules: an option for the factory; may be repeated',
    }),
    unprivileged: Flags.boolean({ summary: 'as a user who is not root, for this user alone; needs the rules of `ublk udev`' }),
    integrity: Flags.string({
      helpValue: 'PARTS',
      summary: 'metadata to each block: size=8,csum=t10dif|ip|nvme,pi-offset=0,tag-size=2,reftag,capable; default none',
    }),
    recovery: Flags.option({
      options: ['off', 'requeue', 'reissue', 'fail-io'] as const,
      summary: 'when the server dies: remove the device, or keep it and hold back, send again or fail its requests; default off',
    })(),
    'user-recovery': Flags.boolean({ char: 'r', exclusive: ['recovery'], summary: 'the same as --recovery requeue' }),
    'data-path': Flags.option({
      options: ['auto', 'copy', 'get-data', 'user-copy', 'zero-copy', 'auto-zero-copy', 'shmem'] as const,
      summary: 'how data moves; default auto: the fastest that kernel and target have',
    })(),
    'zero-copy-fallback': Flags.boolean({
      allowNo: true,
      summary: 'with auto-zero-copy: register by hand what the driver cannot, where it would fail; default yes',
    }),
    shmem: Flags.string({
      helpValue: 'FILE',
      multiple: true,
      multipleNonGreedy: true,
      summary: 'memory that users of the device share: a file, usually of hugetlbfs; may be repeated; see `ublk shmem`',
    }),
    'shmem-read-only': Flags.boolean({ dependsOn: ['shmem'], summary: 'map it for reading alone: it serves writes to the device' }),
    threads: Flags.integer({ helpValue: 'COUNT', summary: 'threads that serve native targets; default one per queue' }),
    'per-io': Flags.boolean({ summary: 'each thread serves some requests of every queue: allows more threads than queues' }),
    batch: Flags.boolean({ summary: 'requests come and go many at a time' }),
    'fixed-files': Flags.boolean({ default: true, allowNo: true, summary: 'register files with the ring; default yes' }),
    preempt: Flags.boolean({
      allowNo: true,
      summary:
        'take the CPU from other programs when a request comes; without: higher rates, slow beside busy programs; default yes, but for null and mem with a queue for each CPU',
    }),
    'part-scan': Flags.boolean({ default: true, allowNo: true, summary: 'look for partitions when the device starts; default yes' }),
    cpus: Flags.string({
      helpValue: 'LIST',
      summary: "CPUs for the threads that serve, dealt out in turn, such as 0-3,8; default the kernel's choice for each queue",
    }),
    patience: Flags.string({
      helpValue: 'TIME',
      summary: 'for nbd: how long requests wait for a connection that was lost, such as 1m; default 20s',
    }),
    timeout: Flags.string({
      helpValue: 'TIME',
      summary: 'time for one request, such as 500ms or 20s; for modules default 20s; for nbd, whose connection is then lost, default none',
    }),
    foreground: Flags.boolean({ exclusive: ['run'], summary: 'serve in this process until SIGINT or SIGTERM' }),
    run: Flags.string({
      helpValue: 'COMMAND',
      summary: 'serve while this shell command runs, with UBLK_DEVICE set, and exit with its status',
    }),
  }

  async run(): Promise<AddResult | undefined> {
    const words = await this.parse(Add)
    const { flags } = words
    const spec = specOf(words)
    if (flags.foreground) return this.#serve(spec)
    if (flags.run !== undefined) return this.#serveWhile(spec, flags.run)
    const live = await launch(spec, stopSignals().signal)
    // Where this process serves, the library's own warning is seen; this server has no terminal.
    if (isUnverified(spec.target))
      process.stderr.write(`ublk: ${formatTarget(spec.target)}: anybody can be that server: it is not verified\n`)
    this.log(live.path)
    return live
  }

  /** `--foreground`: the one JSON value appears when the device is live, not at the end. */
  async #serve(spec: ServeSpec): Promise<undefined> {
    const { signal } = stopSignals()
    boundStop(signal)
    let told: Error | null = null
    const onError = (error: Error): void => {
      told = error
      printWarning(error)
    }
    const server = await DeviceServer.start(spec, { signal, onError, onWarning: printWarning })
    signal.addEventListener('abort', () => void server.close({ graceMs: STOP_GRACE_MS }).catch(() => undefined))
    if (signal.aborted) void server.close({ graceMs: STOP_GRACE_MS }).catch(() => undefined)
    else if (this.jsonEnabled()) this.logJson(await server.describe())
    else this.log(server.path)
    const error = await server.ended
    if (error !== null && error === told) process.exitCode = reportOf(error).exitCode
    else if (error !== null) throw error
  }

  /** `--run`: standard output is the command's, or under `--json` ours. */
  async #serveWhile(spec: ServeSpec, command: string): Promise<AddResult> {
    const { signal } = stopSignals()
    boundStop(signal)
    const server = await DeviceServer.start(spec, { signal, onError: printWarning, onWarning: printWarning })
    try {
      const device = await server.describe()
      const exitCode = await runCommand(command, { device: server.path, signal, quiet: this.jsonEnabled() })
      process.exitCode = exitCode
      return { device, exitCode }
    } finally {
      await server.close(signal.aborted ? { graceMs: STOP_GRACE_MS / 2 } : {})
    }
  }
}

/** Words of `add` as the parser gives them. */
export type AddWords = Interfaces.ParserOutput<
  Interfaces.InferredFlags<typeof Add.flags>,
  Interfaces.InferredFlags<typeof Add.baseFlags>,
  Interfaces.InferredArgs<typeof Add.args>
>

/** What they ask for. */
export function specOf({ argv, flags }: AddWords): ServeSpec {
  const target = parseTarget(parseWords(argv as string[]), { ...flags, set: flags.set ?? [] })
  const device: DeviceSpec = {
    ...(flags.id !== undefined && { id: parseId(flags.id) }),
    ...(flags.queues !== undefined && { queues: flags.queues }),
    ...(flags.depth !== undefined && { depth: flags.depth }),
    ...(flags.size !== undefined && { size: flags.size }),
    ...(flags['block-size'] !== undefined && { blockSize: flags['block-size'] }),
    ...(flags['physical-block-size'] !== undefined && { physicalBlockSize: flags['physical-block-size'] }),
    ...(flags['max-io'] !== undefined && { maxIoBytes: flags['max-io'] }),
    ...(flags['read-only'] && { readOnly: true }),
    ...(flags.rotational && { rotational: true }),
    ...(flags['dma-align'] !== undefined && { dmaAlignment: flags['dma-align'] }),
    ...(flags['max-segments'] !== undefined && { maxSegments: flags['max-segments'] }),
    ...(flags['max-segment-size'] !== undefined && { maxSegmentSize: flags['max-segment-size'] }),
    ...(flags['segment-boundary'] !== undefined && { segmentBoundary: flags['segment-boundary'] }),
    ...(flags.recovery !== undefined && { recovery: flags.recovery }),
    ...(flags['user-recovery'] && { recovery: 'requeue' }),
    ...(flags['data-path'] !== undefined && { dataPath: flags['data-path'] }),
    ...(flags['zero-copy-fallback'] !== undefined && { zeroCopyFallback: flags['zero-copy-fallback'] }),
    ...(flags.shmem !== undefined && { sharedMemory: sharedMemory(flags.shmem, flags['shmem-read-only']) }),
    ...(flags.threads !== undefined && { threads: flags.threads }),
    ...(flags['per-io'] && { perIo: true }),
    ...(flags.batch && { batch: true }),
    ...(!flags['fixed-files'] && { fixedFiles: false }),
    ...(flags.preempt !== undefined && { preempt: flags.preempt }),
    ...(!flags['part-scan'] && { partitionScan: false }),
    ...(flags.unprivileged && { unprivileged: true }),
    ...(flags.integrity !== undefined && { integrity: parseIntegrity(flags.integrity) }),
    ...(flags.cpus !== undefined && { cpus: parseCpus(flags.cpus) }),
    // That of nbd is its server's.
    ...(flags.timeout !== undefined && baseOf(target).type !== 'nbd' && { requestTimeoutMs: parseDurationMs(flags.timeout, '--timeout') }),
  }
  if (baseOf(target).type === 'mem' && device.size === undefined)
    throw usage('a memory device needs --size', 'Example: `ublk add mem --size 1G`.')
  if (baseOf(target).type === 'zoned' && device.size === undefined)
    throw usage('a zoned device needs --size', 'Example: `ublk add zoned --size 1G --zone-size 64M`.')
  return { target, device }
}

function sharedMemory(files: string[], readOnly = false): SharedMemory[] {
  return files.map((file) => ({ path: resolve(file), readOnly }))
}

/** With any number of words the parser takes a flag that it does not know for one. */
function parseWords(words: string[]): string[] {
  const stranger = words.find((word) => word.startsWith('-'))
  if (stranger !== undefined) throw usage(`there is no flag ${stranger}`, 'A path that begins with - is written ./-path.')
  return words
}
