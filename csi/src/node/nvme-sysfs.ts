/**
 * What the kernel says of NVMe subsystems, read from sysfs: names in /dev change from one connection to the next, NQNs do not.
 *
 *   /sys/class/nvme-subsystem/nvme-subsys0/{subsysnqn, nvme0 → controller, nvme0n1: the disk, with native multipath}
 *   /sys/class/nvme-subsystem/nvme-subsys0/nvme0/{state, nvme0n1: the disk, without; nvme0c0n1: a path to it, with}
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'

export interface Controller {
  /** Such as nvme0. */
  name: string
  /** `live`, `connecting`, `deleting`, …; empty when it is just going. */
  state: string
}

export interface Subsystem {
  nqn: string
  controllers: Controller[]
  /** Names of its disks by namespace number, such as nvme0n1. */
  disks: Map<number, string>
}

const CONTROLLER = /^nvme\d+$/
/** A disk, and not nvme0c0n1, which is one of the paths to it. */
const DISK = /^nvme\d+n\d+$/

/** Every subsystem that this machine is connected to with this NQN: one, but for the moment in which one goes and another comes. */
export async function findSubsystem(nqn: string, sysfs = '/sys'): Promise<Subsystem | undefined> {
  const root = join(sysfs, 'class', 'nvme-subsystem')
  for (const name of await list(root)) {
    if ((await read(join(root, name, 'subsysnqn'))) !== nqn) continue
    const found = await readSubsystem(join(root, name), nqn)
    if (found.controllers.length > 0) return found
  }
  return undefined
}

async function readSubsystem(path: string, nqn: string): Promise<Subsystem> {
  const names = await list(path)
  const controllers: Controller[] = []
  const disks = new Map<number, string>()
  const places = [path]
  for (const name of names.filter((entry) => CONTROLLER.test(entry))) {
    controllers.push({ name, state: await read(join(path, name, 'state')) })
    places.push(join(path, name))
  }
  for (const place of places) {
    for (const disk of (await list(place)).filter((entry) => DISK.test(entry))) {
      const nsid = Number(await read(join(place, disk, 'nsid')))
      if (nsid > 0) disks.set(nsid, disks.get(nsid) ?? disk)
    }
  }
  return { nqn, controllers, disks }
}

/** Things in sysfs go while they are looked at: what is gone reads empty. */
async function read(path: string): Promise<string> {
  return (await readFile(path, 'utf8').catch(() => '')).trim()
}

async function list(path: string): Promise<string[]> {
  return (await readdir(path).catch(() => [])).sort()
}
