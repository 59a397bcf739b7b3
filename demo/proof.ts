/**
 * What a device has to show: verified random I/O, a file system, files that survive a remount, a clean check, and nothing left behind.
 *
 * Whatever happens, and when: file system unmounted, device removed, files gone.
 */
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type DeviceStats, listDevices } from 'ublk'
import { type Contestant, type Live, SIZE } from './contestants.ts'
import { run } from './shell.ts'
import { step } from './terminal.ts'

const FIO_MIB = 16
const FILES = 16
const FILE_KIB = 300

/** Figures of one device for the table. */
export interface Figures {
  readIops: number
  writeIops: number
  stats: DeviceStats
  verifiedMib: number
}

export async function prove(contestant: Contestant, signal: AbortSignal): Promise<Figures> {
  await using stack = new AsyncDisposableStack()
  const folder = await mkdtemp(join(tmpdir(), 'ublk-demo-'))
  stack.defer(() => rm(folder, { recursive: true, force: true }))
  const { live, remove } = await add(contestant, folder, signal)
  stack.defer(remove)
  const figures = await randomIo(live, signal)
  await files(contestant, live, folder, signal)
  await step('remove', async () => {
    await remove()
    const gone = !existsSync(live.path) && !(await listDevices()).some(({ id }) => id === live.id)
    if (!gone) throw new Error(`${live.path} is still there`)
    return `${live.path} is gone`
  })
  return figures
}

/** The device, and a way to remove it that may be taken twice. */
async function add(contestant: Contestant, folder: string, signal: AbortSignal): Promise<{ live: Live; remove: () => Promise<void> }> {
  let live: Live | undefined
  await step('add', async () => {
    live = await contestant.add(folder, signal)
    return `${live.path}, ${SIZE}`
  })
  const added = live as Live
  let removal: Promise<void> | undefined
  const remove = (): Promise<void> => {
    removal ??= added.remove()
    return removal
  }
  return { live: added, remove }
}

/** Writes random places, reads them back and compares checksums. */
async function randomIo({ path, stats }: Live, signal: AbortSignal): Promise<Figures> {
  let figures: Figures | undefined
  await step('fio', async () => {
    const job = ['--name=demo', `--filename=${path}`, '--rw=randwrite', '--bs=4k', `--size=${FIO_MIB}m`, '--direct=1']
    const how = ['--ioengine=libaio', '--iodepth=32', '--verify=crc32c', '--verify_fatal=1', '--output-format=json']
    const report = JSON.parse(await run('fio', [...job, ...how], signal)) as {
      jobs: { error: number; read: { iops: number; io_bytes: number }; write: { iops: number } }[]
    }
    const [{ error, read, write } = { error: 1, read: { iops: 0, io_bytes: 0 }, write: { iops: 0 } }] = report.jobs
    const verifiedMib = read.io_bytes / 2 ** 20
    if (error !== 0 || verifiedMib < FIO_MIB) throw new Error(`fio verified ${verifiedMib} of ${FIO_MIB} MiB (error ${error})`)
    figures = { readIops: read.iops, writeIops: write.iops, stats: await stats(), verifiedMib }
    return `${verifiedMib} MiB in random 4 KiB blocks written, read back, checksums compared`
  })
  return figures as Figures
}

async function files({ fileSystem }: Contestant, { path }: Live, folder: string, signal: AbortSignal): Promise<void> {
  const mountPoint = join(folder, 'mnt')
  await mkdir(mountPoint)
  await using stack = new AsyncDisposableStack()
  let mounted = false
  const mount = async (): Promise<void> => {
    await run('mount', [path, mountPoint], signal)
    mounted = true
  }
  const unmount = async (): Promise<void> => {
    if (mounted) await run('umount', [mountPoint])
    mounted = false
  }
  stack.defer(unmount)
  const inMount = (script: string): Promise<string> => run('bash', ['-euc', `cd "$1"; ${script}`, 'bash', mountPoint], signal)

  const [make, check] =
    fileSystem === 'xfs'
      ? [
          ['mkfs.xfs', '-q'],
          ['xfs_repair', '-n'],
        ]
      : [
          ['mkfs.ext4', '-q'],
          ['e2fsck', '-fn'],
        ]
  await step(make[0] as string, async () => {
    await run(make[0] as string, [...make.slice(1), ...(fileSystem === 'xfs' ? ['-f'] : []), path], signal)
    return path
  })
  await step('files', async () => {
    await mount()
    const write = `for i in $(seq ${FILES}); do head -c ${FILE_KIB}K /dev/urandom >file-$i; done; sha256sum file-* >sums`
    await inMount(write)
    await unmount()
    await mount()
    await inMount('sha256sum --check --quiet sums')
    await unmount()
    return `${FILES} files of ${FILE_KIB} KiB, same SHA-256 after unmount and mount`
  })
  await step(check[0] as string, async () => {
    await run(check[0] as string, [...check.slice(1), path], signal)
    return 'clean'
  })
}
