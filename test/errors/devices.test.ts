/** Devices and their states, and the files and servers of targets. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { setTimeout } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { createDevice, Device, deviceInfo, file, listDevices, mirror, nbd, nullTarget, stopDevice } from '../../src/index.ts'
import { run, withDevice } from '../device/support.ts'
import { type Case, direct, NOBODY, Report } from './observe.ts'

const MIB = 1 << 20
const report = new Report('devices')
const directory = mkdtempSync(path.join(tmpdir(), 'ublk-errors-'))
report.conceal(directory, '/data')
test.after.always(() => report.write())

/** Somebody who has a file open. Returns how to make him close it; the end of the test does too. */
async function holdOpen(t: ExecutionContext, held: string): Promise<() => Promise<void>> {
  const holder = spawn('sh', ['-c', 'exec 3<>"$0"; echo open; exec sleep 100', held], { stdio: ['ignore', 'pipe', 'inherit'] })
  const release = async (): Promise<void> => {
    if (holder.kill()) await once(holder, 'exit')
  }
  t.teardown(release)
  await once(holder.stdout, 'data')
  return release
}

const aDevice = { backend: nullTarget({ size: MIB }) }

test.serial('a number that is taken', (t) =>
  withDevice({ ...aDevice, id: 40 }, () =>
    report.provoke(t, 'devices', {
      what: 'The wanted number is taken: a second server',
      library: () => createDevice({ ...aDevice, id: 40 }),
      command: { args: ['add', 'null', '-n', '40'] },
    }),
  ),
)

test.serial('a number that nobody has', async (t) => {
  await report.provoke(t, 'devices', {
    what: 'No such device',
    library: () => deviceInfo(55),
    command: { args: ['info', '55'] },
  })
  for (const verb of ['stop', 'del', 'stats']) {
    await report.provoke(t, 'devices', { what: `No such device, with \`ublk ${verb}\``, command: { args: [verb, '55'] } })
  }
})

test.serial('a char device in other hands', async (t) => {
  const device = await Device.create(aDevice)
  const release = await holdOpen(t, device.charPath)
  await report.provoke(t, 'devices', { what: 'Another process has `/dev/ublkcN` open', library: () => device.start() })
  await release()
  await device.close()
})

test.serial('a safe stop of a device that is open', (t) =>
  withDevice(aDevice, async (device) => {
    const release = await holdOpen(t, device.path)
    await report.provoke(t, 'devices', {
      what: 'A safe stop of a device that is open or mounted',
      library: () => stopDevice(device.id, { safe: true }),
      command: { args: ['stop', String(device.id), '--safe'] },
    })
    t.is(device.state, 'live')
    await release()
  }),
)

test.serial('calls that do not fit the state', async (t) => {
  const device = await createDevice(aDevice)
  await report.provoke(t, 'devices', { what: '`start()` of a live device', library: () => device.start() })
  await report.provoke(t, 'devices', {
    what: '`waitFor()` a state that does not come',
    library: () => device.waitFor('quiesced', { timeoutMs: 50 }),
  })
  await report.provoke(t, 'devices', {
    what: 'A call whose signal aborts',
    library: () => device.waitFor('dead', { signal: AbortSignal.timeout(20) }),
  })
  report.conceal(`process ${process.pid} `, 'process P ')
  await report.provoke(t, 'devices', {
    what: 'Statistics of a device that another program serves',
    command: { args: ['stats', String(device.id)] },
  })
  await device.close()
  await report.provoke(t, 'devices', { what: '`start()` of a closed device', library: () => device.start() })
  await report.provoke(t, 'devices', { what: '`waitFor()` on a closed device', library: () => device.waitFor('live') })
})

test.serial('a start that takes too long', async (t) => {
  t.timeout(90_000)
  const module = path.join(directory, 'never-opens.mjs')
  writeFileSync(module, "export default { size: '1M', open: () => new Promise(() => setInterval(() => {}, 1000)), read() {} }")
  await report.provoke(t, 'devices', { what: 'A backend that does not open in 30 s', command: { args: ['add', module] } })
  t.deepEqual(await listDevices(), [])
})

const inDirectory = (name: string): string => path.join(directory, name)

/** A case for `file` and for `ublk add file`. */
function fileCase(what: string, options: { path: string; size?: number; create?: boolean; direct?: boolean }): Case {
  const { size, create, direct: isDirect } = options
  const flags = [...(size === undefined ? [] : ['-s', String(size)]), ...(create ? ['--create'] : []), ...(isDirect ? ['--direct'] : [])]
  return {
    what,
    library: () => createDevice({ backend: file(options) }),
    command: { args: ['add', 'file', options.path, ...flags], cwd: directory },
  }
}

writeFileSync(inDirectory('empty.img'), '')
writeFileSync(inDirectory('short.img'), Buffer.alloc(8192))
mkdirSync(inDirectory('folder'))

test.serial('memory that cannot be shared', async (t) => {
  const shared = inDirectory('shared')
  writeFileSync(shared, Buffer.alloc(8192))
  await withDevice({ ...aDevice, id: 41, sharedMemory: shared }, async (device) => {
    await report.provoke(t, 'devices', { what: 'Memory that is shared already', library: () => device.shareMemory(shared) })
    const other = inDirectory('other')
    await report.provoke(t, 'devices', { what: 'Memory that is not shared', library: () => device.unshareMemory(other) })
    const empty = inDirectory('empty.img')
    await report.provoke(t, 'devices', { what: 'A file to share that has no pages', library: () => device.shareMemory(empty) })
    await report.provoke(t, 'devices', {
      what: 'Memory for a device that another program serves',
      command: { args: ['shmem', '41', '--add', other] },
    })
  })
  await withDevice({ ...aDevice, id: 41 }, async (device) => {
    await report.provoke(t, 'devices', {
      what: 'Memory for a device that moves its data in another way',
      library: () => device.shareMemory(shared),
    })
  })
})

const FILE_CASES: Case[] = [
  fileCase('A missing file', { path: inDirectory('missing.img') }),
  fileCase('A missing folder', { path: inDirectory('no/disk.img'), create: true, size: MIB }),
  fileCase('A folder', { path: inDirectory('folder') }),
  fileCase('An empty file', { path: inDirectory('empty.img') }),
  fileCase('A file to be made, and no size', { path: inDirectory('new.img'), create: true }),
  fileCase('A file shorter than the size', { path: inDirectory('short.img'), size: MIB }),
  fileCase('Neither a file nor a block device', { path: '/dev/zero' }),
  fileCase('No direct I/O there', { path: '/proc/version', direct: true }),
]

for (const one of FILE_CASES) test.serial(one.what, (t) => report.provoke(t, 'files', one))

test.serial('an NBD server that is not there', (t) =>
  report.provoke(t, 'files', {
    what: 'No NBD server there',
    library: () => createDevice({ backend: nbd('nbd://127.0.0.1:1/disk') }),
    command: { args: ['add', 'nbd', 'nbd://127.0.0.1:1/disk'] },
  }),
)

test.serial('an NBD server that has no TLS', async (t) => {
  const [socket, pki] = [inDirectory('nbd.sock'), inDirectory('pki')]
  execFileSync(path.resolve('test/certificates'), [pki])
  const server = spawn('nbdkit', ['--foreground', '-U', socket, 'memory', '1M'], { stdio: 'ignore' })
  t.teardown(() => server.kill('SIGKILL'))
  while (!existsSync(socket)) await setTimeout(10)
  const uri = `nbds+unix:///?socket=${socket}&tls-certificates=${pki}/client`
  await report.provoke(t, 'files', {
    what: 'An NBD server without TLS, and a URI that asks for it',
    library: () => createDevice({ backend: nbd(uri) }),
    command: { args: ['add', 'nbd', uri] },
  })
})

test.serial('a mirror of files that are no legs', async (t) => {
  const paths = [inDirectory('short.img'), inDirectory('other.img')]
  writeFileSync(paths[1] as string, Buffer.alloc(8192))
  await report.provoke(t, 'files', {
    what: 'Files that are no legs of a mirror',
    library: () => createDevice({ backend: mirror({ paths }) }),
    command: { args: ['add', 'mirror', ...paths] },
  })
})

test.serial('a file that another server has', async (t) => {
  const image = inDirectory('locked.img')
  await withDevice({ backend: file({ path: image, size: MIB, create: true }) }, () =>
    report.provoke(t, 'files', fileCase('Another server has the file', { path: image })),
  )
})

test.serial('a file on a read-only file system', async (t) => {
  const mount = inDirectory('read-only')
  mkdirSync(mount)
  await run('mount', '-t', 'tmpfs', 'tmpfs', mount)
  t.teardown(() => run('umount', mount))
  writeFileSync(path.join(mount, 'disk.img'), Buffer.alloc(MIB))
  await run('mount', '-o', 'remount,ro', mount)
  await report.provoke(t, 'files', fileCase('A read-only file system', { path: path.join(mount, 'disk.img') }))
})

test.serial('a file without rights', async (t) => {
  const image = inDirectory('of-root.img')
  writeFileSync(image, Buffer.alloc(MIB), { mode: 0o600 })
  await run('chmod', '755', directory)
  await report.provoke(t, 'files', { what: 'No rights for the file', command: { args: ['add', 'file', image], through: NOBODY } })
})

test.serial('a module without rights', async (t) => {
  const module = path.join(directory, 'of-root.mjs')
  writeFileSync(module, "export default { size: '1M', read() {} }", { mode: 0o600 })
  await run('chmod', '755', directory)
  // The VM's loader of TypeScript, which the compiled program does not need, would be the one that cannot read it.
  const command = { args: ['add', module], through: NOBODY, env: { NODE_OPTIONS: '' } }
  await report.provoke(t, 'modules', { what: 'No rights for the module', command })
})

test.serial('the file system is full', async (t) => {
  const mount = inDirectory('full')
  mkdirSync(mount)
  await run('mount', '-t', 'tmpfs', '-o', 'size=2M', 'tmpfs', mount)
  t.teardown(() => run('umount', mount))
  await withDevice({ backend: file({ path: path.join(mount, 'disk.img'), size: 8 * MIB, create: true }) }, async (device) => {
    writeFileSync(path.join(mount, 'rest'), Buffer.alloc(2 * MIB - 64 * 1024))
    await run('sh', '-c', `cat /dev/zero >${mount}/rest2 2>/dev/null || true`)
    const answer = await direct('write', device.path, 4 * MIB)
    t.is(answer, 'ENOSPC')
    report.add('serving', 'The file system of the image is full', '`file`', `\`${answer}\``, '', `\`${device.state}\``)
  })
})

test.serial('the disk has a bad sector', async (t) => {
  // Half a disk of zeroes, half of errors.
  await run('dmsetup', 'create', 'bad', '--table', '0 8192 zero\n8192 8192 error')
  t.teardown(() => run('dmsetup', 'remove', '--retry', 'bad'))
  await withDevice({ backend: file({ path: '/dev/mapper/bad', direct: true }) }, async (device) => {
    t.is(await direct('read', device.path, MIB), 'done')
    for (const operation of ['read', 'write'] as const) {
      const answer = await direct(operation, device.path, 6 * MIB)
      t.is(answer, 'EIO')
      report.add('serving', `The disk below fails a ${operation}`, '`file`', `\`${answer}\``, '', `\`${device.state}\``)
    }
  })
})
