/** The devices of FILE together: brings them up, follows changes of FILE, and tells whoever listens and the service manager. */

import { KeptDevice } from './kept-device.ts'
import { removeDevice } from './remove.ts'
import type { ServeEvent } from './serve-events.ts'
import { DEFAULT_RESTART, type Entry } from './serve-file.ts'
import type { ServiceManager } from './service-manager.ts'
import { Spare } from './spare.ts'
import { StateDirectory } from './state.ts'

export class Supervisor {
  readonly #devices = new Map<string, KeptDevice>()
  readonly #spare = new Spare()
  readonly #manager: ServiceManager
  readonly #tell: (event: ServeEvent) => void
  #isReady = false
  #isStopping = false
  #status = ''

  constructor(manager: ServiceManager, tell: (event: ServeEvent) => void) {
    this.#manager = manager
    this.#tell = tell
  }

  /** Keeps the devices of `entries`, and those that an earlier run for `file` has left behind until they can be removed. */
  start(file: string, entries: Entry[]): void {
    for (const entry of entries) this.#keep(entry)
    const directory = StateDirectory.forUser()
    for (const id of directory.ids()) {
      const spec = directory.read(id)?.spec
      const { keeper } = spec ?? {}
      if (spec === undefined || keeper?.file !== file || this.#devices.has(keeper.name)) continue
      this.#keep({ name: keeper.name, spec: { ...spec, keeper }, restart: DEFAULT_RESTART })?.retire()
    }
    this.#changed()
  }

  /** FILE says something else now. */
  reload(entries: Entry[]): void {
    // The READY=1 that ends a reload is also that of a start: before all are up it would be a lie.
    const isTold = this.#isReady
    if (isTold) this.#manager.reloading()
    const names = entries.map(({ name }) => name)
    const removed = [...this.#devices.keys()].filter((name) => !names.includes(name))
    const added = names.filter((name) => !this.#devices.has(name))
    const changed = entries.filter((entry) => this.#devices.get(entry.name)?.update(entry)).map(({ name }) => name)
    for (const name of removed) this.#devices.get(name)?.retire()
    for (const entry of entries) if (added.includes(entry.name)) this.#keep(entry)
    this.#tell({ event: 'reloaded', added, changed, removed })
    if (isTold) this.#manager.tell('READY=1')
    this.#changed()
  }

  /** Leaves the devices as they are, or removes them. */
  async stop({ leaves }: { leaves: boolean }): Promise<void> {
    this.#isStopping = true
    this.#manager.tell('STOPPING=1')
    this.#spare.close()
    const devices = [...this.#devices.values()]
    await Promise.all(devices.map((device) => device.stop()))
    this.#spare.close()
    if (leaves) return
    const ids = devices.map(({ id }) => id).filter((id) => id !== null)
    const failures = (await Promise.allSettled(ids.map((id) => removeDevice(id, { wait: true })))).filter(
      ({ status }) => status === 'rejected',
    )
    if (failures[0] !== undefined) throw (failures[0] as PromiseRejectedResult).reason
  }

  #keep(entry: Entry): KeptDevice {
    const device = new KeptDevice(entry, { spare: this.#spare, tell: this.#tell, onChange: () => this.#changed() })
    this.#devices.set(entry.name, device)
    void device.ended.then(() => {
      // One that FILE has again since is another object.
      if (!this.#isStopping && this.#devices.get(entry.name) === device) this.#devices.delete(entry.name)
      this.#changed()
    })
    return device
  }

  #changed(): void {
    if (this.#isStopping) return
    const devices = [...this.#devices.values()]
    const waiting = devices.filter(({ isLive }) => !isLive)
    const trouble = waiting.map(({ name, trouble }) => (trouble === null ? name : `${name} (${trouble})`)).join(', ')
    const status = `${devices.length - waiting.length} of ${devices.length} devices live${trouble === '' ? '' : `; waiting for ${trouble}`}`
    if (status !== this.#status) this.#manager.tell(`STATUS=${status}`)
    this.#status = status
    // One that does not come up must not keep the machine from starting, nor the others from being mounted.
    if (this.#isReady || waiting.some(({ isGivenUp }) => !isGivenUp)) return
    this.#isReady = true
    this.#manager.tell('READY=1')
    this.#tell({ event: 'ready', devices: devices.length - waiting.length, givenUp: waiting.map(({ name }) => name) })
  }
}
