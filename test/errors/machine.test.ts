/** Machines that cannot serve a device: each made so for real, and mended again. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import test from 'ava'
import { run } from '../device/support.ts'
import { inChild, NOBODY, Report, ROOT } from './observe.ts'

const report = new Report('machine')
test.after.always(() => report.write())

const ADD = ['add', 'mem', '-s', '1M']
const CREATE = "await ublk.createDevice({ backend: ublk.memory({ size: '1MiB' }) })"

const override = (property: string, value: string): string =>
  `--import=data:text/javascript,Object.defineProperty(process,'${property}',{value:'${value}'})`

for (const [what, property, value] of [
  ['Not Linux', 'platform', 'darwin'],
  ['A processor without an addon', 'arch', 'riscv64'],
] as const) {
  test.serial(what, (t) => {
    const nodeOptions = override(property, value)
    return report.provoke(t, 'machine', {
      what,
      library: () => inChild(CREATE, { nodeOptions }),
      command: { args: ADD, env: { NODE_OPTIONS: nodeOptions } },
    })
  })
}

test.serial('no addon', async (t) => {
  const addon = path.join(ROOT, `native/ublk.linux-${process.arch}-gnu.node`)
  renameSync(addon, `${addon}.away`)
  t.teardown(() => renameSync(`${addon}.away`, addon))
  await report.provoke(t, 'machine', { what: 'The native addon is not installed', library: () => inChild(CREATE), command: { args: ADD } })
})

test.serial('an addon of another version', async (t) => {
  const manifest = path.join(ROOT, 'package.json')
  const text = readFileSync(manifest, 'utf8')
  writeFileSync(manifest, text.replace(/"version": "[^"]*"/, '"version": "9.9.9"'))
  t.teardown(() => writeFileSync(manifest, text))
  report.conceal((JSON.parse(text) as { version: string }).version, '0.1.0')
  await report.provoke(t, 'machine', { what: 'The addon is of another release', library: () => inChild(CREATE), command: { args: ADD } })
})

test.serial('no driver', async (t) => {
  await run('modprobe', '-r', 'ublk_drv')
  t.teardown(() => run('modprobe', 'ublk_drv'))
  await report.provoke(t, 'machine', { what: 'The driver is not loaded', library: () => inChild(CREATE), command: { args: ADD } })
})

test.serial('an unprivileged device of root', (t) =>
  report.provoke(t, 'machine', {
    what: 'An unprivileged device, asked for by root',
    library: () => inChild("await ublk.createDevice({ backend: ublk.memory({ size: '1MiB' }), unprivileged: true })"),
    command: { args: [...ADD, '--unprivileged'] },
  }),
)

test.serial('no rights', (t) =>
  report.provoke(t, 'machine', {
    what: 'No rights',
    library: () => inChild(CREATE, { through: NOBODY }),
    command: { args: ADD, through: NOBODY },
  }),
)

test.serial('no rights for a device', async (t) => {
  // Access to the control device alone: the driver itself refuses.
  await run('chmod', '666', '/dev/ublk-control')
  t.teardown(() => run('chmod', '600', '/dev/ublk-control'))
  await report.provoke(t, 'machine', {
    what: 'Access to `/dev/ublk-control`, and no `CAP_SYS_ADMIN`',
    library: () => inChild(CREATE, { through: NOBODY }),
  })
})

test.serial('no more devices', async (t) => {
  // Since 6.15 the driver counts the devices of unprivileged users alone.
  const limit = '/sys/module/ublk_drv/parameters/ublks_max'
  const allowed = readFileSync(limit, 'utf8')
  await run('chmod', '666', '/dev/ublk-control')
  writeFileSync(limit, '0')
  t.teardown(async () => {
    writeFileSync(limit, allowed)
    await run('chmod', '600', '/dev/ublk-control')
  })
  await report.provoke(t, 'machine', {
    what: 'As many devices as the driver allows an unprivileged user, and one more',
    library: () => inChild("await ublk.createDevice({ backend: ublk.memory({ size: '1MiB' }), unprivileged: true })", { through: NOBODY }),
    command: { args: [...ADD, '--unprivileged'], through: NOBODY },
  })
})

test.serial('no io_uring', async (t) => {
  await run('sysctl', '-q', 'kernel.io_uring_disabled=2')
  t.teardown(() => run('sysctl', '-q', 'kernel.io_uring_disabled=0'))
  await report.provoke(t, 'machine', { what: 'io_uring is switched off', library: () => inChild(CREATE), command: { args: ADD } })
})

test.serial('no address space', (t) =>
  report.provoke(t, 'machine', {
    what: 'A memory device larger than the address space',
    library: () => inChild("await ublk.createDevice({ backend: ublk.memory({ size: '4PiB' }) })"),
    command: { args: ['add', 'mem', '-s', '4P'] },
  }),
)
