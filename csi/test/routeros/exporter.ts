/** Exports of the test router: the kernel's NVMe/TCP target through configfs where this machine has one (root, nvmet_tcp), else none. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readlinkSync, rmdirSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface Export {
  nqn: string
  /** The image. */
  path: string
  port: number
  /** Host NQN that may connect; empty: every one. */
  allowedHost: string
}

export interface Exporter {
  export(wanted: Export): void
  /** Who may connect from now on. Who is connected stays, as with the kernel's target. */
  allow(nqn: string, host: string): void
  /** Ends its connections too. */
  unexport(nqn: string): void
  /** The image has grown. */
  resized(nqn: string): void
  /** Ends every export. */
  clear(): void
}

/** For machines without nvmet, and tests of the control plane alone. */
export class NoExporter implements Exporter {
  readonly exports = new Map<string, Export>()
  /** How often an export began: each time without the connections of before. */
  begun = 0

  export(wanted: Export): void {
    this.begun++
    this.exports.set(wanted.nqn, wanted)
  }

  allow(nqn: string, host: string): void {
    this.exports.get(nqn)!.allowedHost = host
  }

  unexport(nqn: string): void {
    this.exports.delete(nqn)
  }

  resized(): void {}

  clear(): void {
    this.exports.clear()
  }
}

const ROOT = '/sys/kernel/config/nvmet'
const OURS = 'nqn.2000-02.com.mikrotik:'

export class NvmetExporter implements Exporter {
  static available(): boolean {
    return existsSync(ROOT)
  }

  export({ nqn, path, port, allowedHost }: Export): void {
    this.unexport(nqn)
    const subsystem = join(ROOT, 'subsystems', nqn)
    mkdirSync(subsystem)
    // The same numbers each time: a host that comes back refuses a namespace with other ones.
    const digest = createHash('sha256').update(nqn).digest('hex')
    write(subsystem, 'attr_serial', digest.slice(0, 20))
    const namespace = join(subsystem, 'namespaces', '1')
    mkdirSync(namespace)
    write(namespace, 'device_path', path)
    // The image may be on a file system without direct I/O.
    write(namespace, 'buffered_io', '1')
    write(namespace, 'device_uuid', digest.slice(0, 32).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'))
    write(namespace, 'enable', '1')
    this.allow(nqn, allowedHost)
    symlinkSync(subsystem, join(this.#port(port), 'subsystems', nqn))
  }

  allow(nqn: string, host: string): void {
    const subsystem = join(ROOT, 'subsystems', nqn)
    for (const other of readdirSync(join(subsystem, 'allowed_hosts'))) unlinkSync(join(subsystem, 'allowed_hosts', other))
    write(subsystem, 'attr_allow_any_host', host === '' ? '1' : '0')
    if (host === '') return
    const folder = join(ROOT, 'hosts', host)
    if (!existsSync(folder)) mkdirSync(folder)
    symlinkSync(folder, join(subsystem, 'allowed_hosts', host))
  }

  #port(port: number): string {
    const folder = join(ROOT, 'ports', String(port))
    if (!existsSync(folder)) {
      mkdirSync(folder)
      write(folder, 'addr_trtype', 'tcp')
      write(folder, 'addr_adrfam', 'ipv4')
      write(folder, 'addr_traddr', '0.0.0.0')
      write(folder, 'addr_trsvcid', String(port))
    }
    return folder
  }

  unexport(nqn: string): void {
    const subsystem = join(ROOT, 'subsystems', nqn)
    if (!existsSync(subsystem)) return
    for (const port of readdirSync(join(ROOT, 'ports'))) {
      const link = join(ROOT, 'ports', port, 'subsystems', nqn)
      if (isLink(link)) unlinkSync(link)
    }
    for (const host of readdirSync(join(subsystem, 'allowed_hosts'))) unlinkSync(join(subsystem, 'allowed_hosts', host))
    for (const namespace of readdirSync(join(subsystem, 'namespaces'))) {
      write(join(subsystem, 'namespaces', namespace), 'enable', '0')
      rmdirSync(join(subsystem, 'namespaces', namespace))
    }
    rmdirSync(subsystem)
  }

  resized(nqn: string): void {
    const namespace = join(ROOT, 'subsystems', nqn, 'namespaces', '1')
    if (existsSync(namespace)) write(namespace, 'revalidate_size', '1')
  }

  clear(): void {
    for (const nqn of readdirSync(join(ROOT, 'subsystems'))) if (nqn.startsWith(OURS)) this.unexport(nqn)
  }
}

const write = (folder: string, attribute: string, value: string): void => writeFileSync(join(folder, attribute), value)

function isLink(path: string): boolean {
  try {
    readlinkSync(path)
    return true
  } catch {
    return false
  }
}
