/**
 * Volumes of a storage server as NVMe/TCP disks of this node, by nvme-cli. A disk is found, and found again, by the NQN of its subsystem.
 *
 * Only subsystems of volumes of ours are ever disconnected: the node may have its own root on NVMe/TCP.
 */
import { access, writeFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { dataLoss, failedPrecondition, invalidArgument, unavailable } from '../errors.ts'
import { hostIdOf, nqnOf } from '../ids.ts'
import type { AttachedDevice, Attacher } from '../provider.ts'
import { ProgramError, type RunProgram, runProgram } from '../run-program.ts'
import { sizeOfDisk } from './disk-size.ts'
import { findSubsystem, type Subsystem } from './nvme-sysfs.ts'

const CONNECT_ATTEMPTS = 3
const CONNECT_PAUSE_MS = 5_000
const COMMAND_LIMIT_MS = 30_000
/** A controller that connects again, a disk that appears, one that takes its new size, one that goes. */
const STATE_LIMIT_MS = 30_000
const POLL_MS = 100
/** Between two attempts of the kernel to reach a server that is gone. */
const RECONNECT_SECONDS = 5
const HOST_NAME = /^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?$/

/** What volume_context must have. */
interface Target {
  nqn: string
  address: string
  port: string
  nsid: number
  bytes: number
}

export interface NvmeOptions {
  /** Name of this host, its alone: the fence lets it in, and two hosts with one name would corrupt each other's volumes. */
  hostNqn: string
  /** For how long I/O waits for a server that is gone; -1: for ever. 600 unless given, as the kernel has it. */
  ctrlLossSeconds?: number
  run?: RunProgram
  sysfs?: string
}

export class NvmeAttacher implements Attacher {
  readonly #run: RunProgram
  readonly #sysfs: string
  readonly #hostNqn: string
  readonly #lossSeconds: number

  constructor({ hostNqn, ctrlLossSeconds = 600, run = runProgram, sysfs = '/sys' }: NvmeOptions) {
    this.#run = run
    this.#sysfs = sysfs
    this.#hostNqn = hostNqn
    this.#lossSeconds = ctrlLossSeconds
  }

  async attach(id: string, context: Record<string, string>, signal: AbortSignal): Promise<AttachedDevice> {
    const target = readContext(id, context)
    await this.#connect(target, signal)
    await this.#waitUntil(signal, `no controller of ${target.nqn} is live; is ${target.address} reachable?`, async () =>
      isLive(await this.#find(target.nqn)),
    )
    const device = await this.#device(id, target.nsid, signal)
    if (device.bytes < BigInt(target.bytes)) {
      throw failedPrecondition(
        `${device.path} has ${device.bytes} bytes, and volume ${id} was made with ${target.bytes}; look at the disk on the server`,
      )
    }
    return device
  }

  async detach(id: string, signal: AbortSignal): Promise<void> {
    const nqn = nqnOf(id)
    const found = await this.#find(nqn)
    if (found === undefined) return
    // A dead controller would first be waited for; what waits in it fails now.
    for (const { name, state } of found.controllers) {
      if (state !== 'live') await writeFile(`${this.#sysfs}/class/nvme/${name}/ctrl_loss_tmo`, '0').catch(() => {})
    }
    await this.#run('nvme', ['disconnect', `--nqn=${nqn}`], { signal, limitMs: COMMAND_LIMIT_MS })
    await this.#waitUntil(signal, `${nqn} is still connected`, async () => (await this.#find(nqn)) === undefined)
  }

  async attached(id: string): Promise<AttachedDevice | undefined> {
    const found = await this.#find(nqnOf(id))
    const [first] = found?.disks ?? []
    return first === undefined ? undefined : this.#toDevice(id, first[0], first[1])
  }

  async resized(id: string, bytes: bigint, signal: AbortSignal): Promise<void> {
    const nqn = nqnOf(id)
    await this.#rescan(await this.#find(nqn), signal)
    await this.#waitUntil(
      signal,
      `the disk of ${nqn} does not show its new size of ${bytes} bytes; is it expanded on the server?`,
      async () => {
        const device = await this.attached(id)
        return device !== undefined && device.bytes >= bytes
      },
    )
  }

  async probe(signal: AbortSignal): Promise<void> {
    await access(`${this.#sysfs}/module/nvme_tcp`).catch(async () => {
      await this.#run('modprobe', ['nvme-tcp'], { signal }).catch((cause: Error) => {
        throw failedPrecondition('the kernel module nvme-tcp is not there; install the modules of the running kernel', { cause })
      })
    })
  }

  async #connect({ nqn, address, port }: Target, signal: AbortSignal): Promise<void> {
    // One that connects again counts: a second connection would be refused, or be a second path.
    if ((await this.#find(nqn)) !== undefined) return
    const args = ['connect', '--transport=tcp', `--traddr=${address}`, `--trsvcid=${port}`, `--nqn=${nqn}`]
    args.push(`--hostnqn=${this.#hostNqn}`, `--hostid=${hostIdOf(this.#hostNqn)}`)
    args.push(`--ctrl-loss-tmo=${this.#lossSeconds}`, `--reconnect-delay=${RECONNECT_SECONDS}`)
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#run('nvme', args, { signal, limitMs: COMMAND_LIMIT_MS })
        return
      } catch (error) {
        if (!(error instanceof ProgramError)) throw error
        if (/already connected|already in progress/i.test(error.stderr)) return
        if (attempt === CONNECT_ATTEMPTS) {
          throw unavailable(
            `${error.message} (${attempt} attempts); is the export there, and TCP port ${port} of ${address} open from this node?`,
            { cause: error },
          )
        }
        await delay(CONNECT_PAUSE_MS, undefined, { signal }).catch(() => signal.throwIfAborted())
      }
    }
  }

  async #device(id: string, nsid: number, signal: AbortSignal): Promise<AttachedDevice> {
    const nqn = nqnOf(id)
    if ((await this.#find(nqn))?.disks.get(nsid) === undefined) await this.#rescan(await this.#find(nqn), signal)
    let name: string | undefined
    await this.#waitUntil(signal, `${nqn} has no namespace ${nsid}`, async () => {
      name = (await this.#find(nqn))?.disks.get(nsid)
      return (
        name !== undefined &&
        (await access(`/dev/${name}`).then(
          () => true,
          () => false,
        ))
      )
    })
    return this.#toDevice(id, nsid, name!)
  }

  async #toDevice(id: string, nsid: number, name: string): Promise<AttachedDevice> {
    const bytes = await sizeOfDisk(name, this.#sysfs)
    const path = `/dev/${name}`
    return { path, bytes: BigInt(bytes), verify: () => this.#verify(id, nsid, name, bytes) }
  }

  async #verify(id: string, nsid: number, name: string, bytes: number): Promise<void> {
    const found = await this.#find(nqnOf(id))
    const now = found?.disks.get(nsid)
    if (now !== name)
      throw dataLoss(`/dev/${name} is not the disk of volume ${id} any more (that is ${now ?? 'gone'}); nothing is done with it`)
    if (!isLive(found)) throw unavailable(`no controller of ${nqnOf(id)} is live; nothing is done with /dev/${name}`)
    const size = await sizeOfDisk(name, this.#sysfs)
    if (size !== bytes) throw dataLoss(`/dev/${name} has ${size} bytes, not the ${bytes} of volume ${id}; nothing is done with it`)
  }

  async #rescan(found: Subsystem | undefined, signal: AbortSignal): Promise<void> {
    for (const { name, state } of found?.controllers ?? []) {
      if (state === 'live') await this.#run('nvme', ['ns-rescan', `/dev/${name}`], { signal, limitMs: COMMAND_LIMIT_MS })
    }
  }

  #find(nqn: string): Promise<Subsystem | undefined> {
    return findSubsystem(nqn, this.#sysfs)
  }

  async #waitUntil(signal: AbortSignal, refusal: string, isSo: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + STATE_LIMIT_MS
    while (!(await isSo())) {
      signal.throwIfAborted()
      if (performance.now() > deadline) throw unavailable(`${refusal} (after ${STATE_LIMIT_MS / 1000} s)`)
      await delay(POLL_MS)
    }
  }
}

const isLive = (subsystem: Subsystem | undefined): boolean => subsystem?.controllers.some(({ state }) => state === 'live') ?? false

/** Text that goes to nvme-cli is checked, though no shell reads it: a context is what somebody wrote into a PersistentVolume. */
function readContext(id: string, context: Record<string, string>): Target {
  const { nqn, address = '', port = '', nsid = '1', bytes = '0' } = context
  if (nqn !== nqnOf(id))
    throw failedPrecondition(`volume_context has the NQN "${nqn}", and volume ${id} has ${nqnOf(id)}; it is not attached`)
  if (isIP(address) === 0 && !HOST_NAME.test(address))
    throw invalidArgument(`volume_context: address "${address}" is neither an IP address nor a host name`)
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65_535) throw invalidArgument(`volume_context: port "${port}" is no TCP port`)
  if (!/^[1-9]\d{0,9}$/.test(nsid)) throw invalidArgument(`volume_context: nsid "${nsid}" is no namespace`)
  if (!/^\d{1,16}$/.test(bytes)) throw invalidArgument(`volume_context: bytes "${bytes}" is no size`)
  return { nqn, address, port, nsid: Number(nsid), bytes: Number(bytes) }
}
