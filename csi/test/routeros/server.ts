/** The SSH service of the test router: one key, one user, `exec` only, the terminal's width from the login's suffix as on RouterOS. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import ssh2, { type AuthContext, type Connection, type ServerChannel } from 'ssh2'
import { Console, type ConsoleOptions } from './console.ts'
import { type Fault, Faults } from './faults.ts'
import { Machine, type MachineOptions } from './machine.ts'

export interface RouterOptions extends MachineOptions, ConsoleOptions {
  hostKey: string | Buffer
  /** Public key of the one user, as in authorized_keys. */
  authorizedKey: string | Buffer
  listen?: { host: string; port: number }
  /** Forces a width, whatever the login asks for. */
  width?: number
}

const DEFAULT_WIDTH = 80
const REBOOT_MS = 300

export class TestRouter {
  readonly #options: RouterOptions
  readonly machine: Machine
  readonly console: Console
  readonly faults: Faults
  readonly #connections = new Set<Connection>()
  #server: ssh2.Server | undefined
  #port = 0
  /** Scripts in the order they came, and the most channels that one connection had at a time. */
  readonly scripts: string[] = []
  mostChannels = 0
  logins = 0

  constructor(options: RouterOptions) {
    this.#options = options
    this.machine = new Machine(options)
    this.console = new Console(this.machine, options)
    this.faults = new Faults(options.directory)
  }

  get port(): number {
    return this.#port
  }

  async start(): Promise<void> {
    this.machine.start()
    await this.#listen()
  }

  async stop(): Promise<void> {
    await this.#silence()
    this.machine.stop()
  }

  /** Power off and on: connections and exports are gone for a while, what is set stays. */
  async reboot(milliseconds: number = REBOOT_MS): Promise<void> {
    await this.#silence()
    this.machine.stop()
    await delay(milliseconds)
    this.machine.start()
    await this.#listen()
  }

  async #listen(): Promise<void> {
    this.#server = new ssh2.Server({ hostKeys: [this.#options.hostKey] }, (connection) => this.#serve(connection))
    this.#server.listen(this.#port || (this.#options.listen?.port ?? 0), this.#options.listen?.host ?? '127.0.0.1')
    await once(this.#server, 'listening')
    this.#port = (this.#server.address() as AddressInfo).port
  }

  async #silence(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    if (!server) return
    const closed = once(server, 'close')
    server.close()
    for (const connection of this.#connections) end(connection)
    await closed
  }

  #serve(connection: Connection): void {
    this.#connections.add(connection)
    let width = this.#options.width ?? DEFAULT_WIDTH
    let channels = 0
    let turn: Promise<void> = Promise.resolve()
    connection.on('error', () => undefined)
    socketOf(connection).setNoDelay(true)
    connection.on('close', () => this.#connections.delete(connection))
    connection.on('authentication', (context) => {
      width = this.#options.width ?? Number(/\+[a-z]*?(\d+)w/.exec(context.username)?.[1] ?? width)
      if (!this.#mayLogIn(context)) return context.reject(['publickey'])
      context.accept()
    })
    connection.on('ready', () => {
      this.logins++
      connection.on('session', (accept) => {
        accept().on('exec', (acceptExec, _reject, { command }) => {
          const channel = acceptExec()
          channels++
          this.mostChannels = Math.max(this.mostChannels, channels)
          channel.on('close', () => channels--).resume()
          // A second channel waits for the first.
          turn = turn.then(() => this.#command(connection, channel, command, width))
        })
      })
    })
  }

  #mayLogIn(context: AuthContext): boolean {
    if (context.method !== 'publickey') return false
    const key = ssh2.utils.parseKey(this.#options.authorizedKey)
    if (key instanceof Error) throw key
    const allowed = (Array.isArray(key) ? key[0]! : key) as ssh2.ParsedKey
    const same = (one: Buffer, other: Buffer): boolean => timingSafeEqual(digest(one), digest(other))
    if (context.key.algo !== allowed.type || !same(context.key.data, allowed.getPublicSSH())) return false
    return !context.signature || allowed.verify(context.blob!, context.signature, context.hashAlgo) === true
  }

  async #command(connection: Connection, channel: ServerChannel, script: string, width: number): Promise<void> {
    this.scripts.push(script)
    const faults = this.faults.take(script)
    const fault = (kind: Fault['kind']): Fault | undefined => faults.find((one) => one.kind === kind)
    const slow = fault('slow')
    if (slow) await delay(slow.milliseconds ?? 1000)
    if (fault('reboot')) return void this.reboot(fault('reboot')!.milliseconds)
    if (fault('drop-before')) return end(connection)
    let reply = await this.console.run(refused(script, faults), width)
    if (fault('drop-after')) return end(connection)
    if (fault('malformed')) reply = reply.slice(0, reply.length / 2)
    if (fault('interleaved')) reply = interleaved(reply)
    channel.write(reply)
    channel.exit(0)
    channel.end()
  }
}

/** The command fails as the real one would; what is around it runs. */
function refused(script: string, faults: Fault[]): string {
  const kind = faults.find((fault) => fault.kind === 'no-space' || fault.kind === 'busy')?.kind
  if (kind === undefined) return script
  const error = kind === 'busy' ? 'failure: could not unmount, stop using it first' : 'failure: not enough space'
  return script.replace(/\/(disk|file) (add|set|remove|copy)/, `:error "${error}"; $&`)
}

const interleaved = (reply: string): string =>
  reply
    .split('\r\n')
    .flatMap((line) => ['echo: system,error,critical login failure for user root from 192.0.2.7 via ssh', line])
    .join('\r\n')

/** ssh2 keeps it to itself; `Connection.end` would say goodbye. */
const socketOf = (connection: Connection): Socket => (connection as unknown as { _sock: Socket })._sock

const end = (connection: Connection): void => void socketOf(connection).destroy()

const digest = (data: Buffer): Buffer => createHash('sha256').update(data).digest()
