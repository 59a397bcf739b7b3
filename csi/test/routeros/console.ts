/**
 * The console of the test router: runs parsed scripts on the machine. What it knows of commands, arguments and versions is what dumps of the
 * real console's schema list; what it prints follows captures (docs/csi/rds-commands.md says which is which).
 */
import { type Command, type Condition, type Expression, type Language, parse, ScriptError, type Signature } from './grammar.ts'
import { type FileDisk, type Machine, POOL } from './machine.ts'
import { grouped, type Printed, printDetail, rounded } from './print.ts'

export interface ConsoleOptions {
  /** `7.24.1` unless given. */
  version?: string
  /** Whether the package rose-storage is installed. */
  storage?: boolean
  /** Some versions write integers as `1099511627776.000000`. */
  floatIntegers?: boolean
}

type Row = Map<string, Value>
type Value = string | number | boolean | undefined | Value[] | Row

const STORAGE_ARGUMENTS = ['nvme-tcp-export', 'nvme-tcp-server-port', 'nvme-tcp-server-allow-host-name', 'nvme-tcp-server-password']
const READ_ONLY = { flags: ['detail', 'as-value', 'count-only', 'brief'], named: ['proplist'], where: true }

export class Console implements Language {
  readonly #machine: Machine
  readonly #version: string
  readonly #signatures: Map<string, Signature>
  readonly #floats: boolean
  /** Commands that ran, in order, without what `:` begins: what tests count. */
  readonly ran: string[] = []

  constructor(machine: Machine, { version = '7.24.1', storage = true, floatIntegers = false }: ConsoleOptions = {}) {
    this.#machine = machine
    this.#version = version
    this.#floats = floatIntegers
    this.#signatures = signatures(version, storage)
  }

  isMenu(path: string): boolean {
    return [...this.#signatures.keys()].some((name) => name.startsWith(`${path}/`))
  }

  signature(name: string): Signature | undefined {
    return this.#signatures.get(name)
  }

  /** All that a script prints on a terminal of this width; an error's text is the last of it. */
  async run(script: string, width: number): Promise<string> {
    const run = new Run(this, this.#machine, this.#version, this.#signatures, width, this.#floats)
    try {
      await run.all(parse(script, this))
    } catch (error) {
      if (!(error instanceof ScriptError)) throw error
      run.print(error.message)
    }
    return run.printed
  }
}

function signatures(version: string, storage: boolean): Map<string, Signature> {
  const [, minor = 0] = version.split('.').map(Number)
  const added = ['type', 'slot', 'comment', 'disabled', 'copy-from']
  if (minor >= 17) added.push('file-path', 'file-size', 'file-offset', 'mount-filesystem', 'mount-read-only')
  if (storage) added.push(...STORAGE_ARGUMENTS)
  if (storage && minor >= 21) added.push('nvme-tcp-server-nqn')
  const list: [string, Signature][] = [
    [':put', { positional: 1 }],
    [':error', { positional: 1 }],
    [':len', { positional: 1 }],
    [':local', { positional: 2 }],
    [':set', { positional: 2 }],
    [':do', { positional: 1, named: ['on-error'] }],
    ['/disk/add', { named: added }],
    ['/disk/set', { positional: 1, named: added.filter((name) => name !== 'copy-from') }],
    ['/disk/remove', { positional: 1 }],
    ['/disk/find', { where: true }],
    ['/disk/print', READ_ONLY],
    ['/file/remove', { positional: 1 }],
    ['/file/find', { where: true }],
    ['/file/print', READ_ONLY],
    ['/system/resource/get', { positional: 1 }],
    ['/system/identity/set', { named: ['name'] }],
    ['/system/reboot', {}],
    ['/console/inspect', { flags: ['as-value'], named: ['request', 'path', 'input'] }],
  ]
  if (minor >= 13) list.push([':onerror', { positional: 1, named: ['in', 'do'] }], [':serialize', { named: ['to', 'value', 'options'] }])
  if (storage && minor >= 18) list.push(['/disk/copy', { named: ['src', 'dst', 'src-offset', 'dst-offset', 'size'] }])
  return new Map(list)
}

/** One script while it runs. */
class Run {
  readonly #console: Console
  readonly #machine: Machine
  readonly #version: string
  readonly #signatures: Map<string, Signature>
  readonly #width: number
  readonly #floats: boolean
  readonly #variables = new Map<string, Value>()
  printed = ''

  constructor(console: Console, machine: Machine, version: string, known: Map<string, Signature>, width: number, floats: boolean) {
    this.#console = console
    this.#machine = machine
    this.#version = version
    this.#signatures = known
    this.#width = width
    this.#floats = floats
  }

  print(line: string): void {
    this.printed += `${line}\r\n`
  }

  /** The value is that of the last command. */
  async all(commands: Command[]): Promise<Value> {
    let value: Value
    for (const command of commands) value = await this.#command(command)
    return value
  }

  async #command(command: Command): Promise<Value> {
    if (!command.name.startsWith(':')) this.#console.ran.push(command.name)
    switch (command.name) {
      case ':put':
        this.print(shown(await this.#positional(command, 0)))
        return undefined
      case ':error':
        throw new ScriptError(shown(await this.#positional(command, 0)))
      case ':len': {
        const value = await this.#positional(command, 0)
        return Array.isArray(value) ? value.length : shown(value).length
      }
      case ':local':
      case ':set':
        this.#variables.set(this.#bareWord(command, 0), command.positional[1] && (await this.#value(command.positional[1])))
        return undefined
      case ':onerror':
        return this.#guarded(command.named.get('in'), command.named.get('do'), this.#bareWord(command, 0))
      case ':do':
        return this.#guarded(command.positional[0], command.named.get('on-error'), undefined)
      case ':serialize':
        return this.#serialized(await this.#named(command, 'value'))
      case '/disk/add':
        return this.#addDisk(command)
      case '/disk/set':
        return this.#setDisk(command)
      case '/disk/remove':
        for (const disk of this.#chosen(await this.#positional(command, 0))) this.#machine.removeDisk(disk)
        return undefined
      case '/disk/copy':
        return this.#copyDisk(command)
      case '/disk/find':
      case '/file/find':
        return (await this.#rows(command)).map((row) => row.get('.id'))
      case '/disk/print':
      case '/file/print':
        return this.#list(command)
      case '/file/remove':
        this.#removeFiles(await this.#positional(command, 0))
        return undefined
      case '/system/resource/get':
        return this.#bareWord(command, 0) === 'version' ? `${this.#version} (stable)` : undefined
      case '/console/inspect':
        return this.#inspect(await this.#named(command, 'path'))
      default:
        return undefined
    }
  }

  async #guarded(body: Expression | undefined, handler: Expression | undefined, variable: string | undefined): Promise<Value> {
    if (body?.kind !== 'block' || handler?.kind !== 'block') throw new ScriptError('syntax error (line 1 column 1)')
    try {
      return await this.all(body.script)
    } catch (error) {
      if (!(error instanceof ScriptError)) throw error
      if (variable) this.#variables.set(variable, error.message)
      return this.all(handler.script)
    }
  }

  async #addDisk(command: Command): Promise<Value> {
    const values = await this.#texts(command)
    if (values.get('type') !== 'file') throw new ScriptError('input does not match any value of type')
    const path = values.get('file-path') ?? ''
    const slot = values.get('slot') || `file${this.#machine.disks.length + 1}`
    const whole = { slot, path, mountFilesystem: true, exported: false, port: 4420, nqn: '', allowedHost: '', ...changes(values) }
    return `*${this.#machine.addDisk(whole, bytesIn(values)).toString(16).toUpperCase()}`
  }

  async #setDisk(command: Command): Promise<Value> {
    const values = await this.#texts(command)
    for (const disk of this.#chosen(await this.#positional(command, 0))) this.#machine.changeDisk(disk, changes(values), bytesIn(values))
    return undefined
  }

  async #copyDisk(command: Command): Promise<Value> {
    const values = await this.#texts(command)
    const [source, target] = ['src', 'dst'].map((name) => {
      const disk = this.#machine.disks.find(({ slot }) => slot === values.get(name))
      if (!disk) throw new ScriptError(`input does not match any value of ${name}`)
      return disk
    }) as [FileDisk, FileDisk]
    let told = 0
    await this.#machine.copyDisk(source, target, (done, of) => {
      if (done < of && done - told < of / 4) return
      told = done
      this.print(`  status: ${done} / ${of} (${Math.floor((done * 100) / of)}%)`)
    })
    return undefined
  }

  #removeFiles(ids: Value): void {
    const files = this.#machine.files()
    const list = Array.isArray(ids) ? ids : [ids]
    if (list.length === 0) throw new ScriptError('no such item')
    const names = list.map((id) => files[Number.parseInt(shown(id).slice(1), 16) - 1]?.name)
    for (const name of names) {
      if (name === undefined) throw new ScriptError('no such item')
      this.#machine.removeFile(name)
    }
  }

  /** Disks of `[find …]`, of an id, or of a slot's name. */
  #chosen(ids: Value): FileDisk[] {
    const list = Array.isArray(ids) ? ids : [ids]
    const found = list.map((id) => this.#machine.disks.find((disk) => idOf(disk) === id || disk.slot === id))
    if (found.length === 0 || found.includes(undefined)) throw new ScriptError('no such item')
    return found as FileDisk[]
  }

  async #list(command: Command): Promise<Value> {
    const rows = await this.#rows(command)
    const wanted = command.named.has('proplist') ? shown(await this.#named(command, 'proplist')).split(',') : undefined
    const columns = (row: Row): Row => new Map([...row].filter(([key]) => !wanted || key === '.id' || wanted.includes(key)))
    if (command.flags.has('as-value')) return rows.map(columns)
    const disks = command.name === '/disk/print'
    const records = rows.map((row) => ({ ...record(row), fields: record(row).fields.filter(([key]) => !wanted || wanted.includes(key)) }))
    this.printed += printDetail(records, this.#width, disks ? 'BMt' : '')
    return undefined
  }

  async #rows(command: Command): Promise<Row[]> {
    const rows = command.name.startsWith('/disk') ? this.#diskRows() : this.#fileRows()
    const keep: Row[] = []
    for (const row of rows) if (!command.where || (await this.#holds(command.where, row))) keep.push(row)
    return keep
  }

  #diskRows(): Row[] {
    const pool: Row = new Map<string, Value>([
      ['.id', '*1'],
      ['type', 'raid'],
      ['slot', POOL],
      ['fs', 'xfs'],
      ['size', this.#machine.poolBytes],
      ['free', this.#machine.freeBytes],
      ['use', `${Math.floor(100 - (100 * this.#machine.freeBytes) / this.#machine.poolBytes)}%`],
      ['mount-point', POOL],
      ['state', 'clean'],
      ['mounted', true],
    ])
    return [pool, ...this.#machine.disks.map((disk) => this.#diskRow(disk))]
  }

  #diskRow(disk: FileDisk): Row {
    const bytes = this.#machine.bytesOf(disk)
    // Without its file a disk has no size (assumed).
    const size: [string, Value][] = this.#machine.hasFile(disk) ? [['size', bytes]] : []
    return new Map<string, Value>([
      ['.id', idOf(disk)],
      ['type', 'file'],
      ['slot', disk.slot],
      ['slot-default', ''],
      ['parent', ''],
      ['fs', '-'],
      ['model', disk.path],
      ...size,
      ['mount-filesystem', disk.mountFilesystem],
      ['mount-read-only', false],
      ['compress', false],
      ['sector-size', 512],
      ['raid-master', 'none'],
      ['nvme-tcp-export', disk.exported],
      ['nvme-tcp-server-port', disk.port],
      ['nvme-tcp-server-nqn', disk.nqn],
      ['nvme-tcp-server-allow-host-name', disk.allowedHost],
      ['iscsi-export', false],
      ['file-path', disk.path],
      ['file-size', bytes],
      ['file-offset', 0],
    ])
  }

  #fileRows(): Row[] {
    return this.#machine.files().map(
      ({ name, bytes, modified }, number): Row =>
        new Map<string, Value>([
          ['.id', `*${(number + 1).toString(16).toUpperCase()}`],
          ['name', name],
          ['type', '.img file'],
          ['size', bytes],
          ['last-modified', modified.toISOString().slice(0, 19).replace('T', ' ')],
        ]),
    )
  }

  /** Arguments of a command, as the console's own help has them. */
  #inspect(path: Value): Value {
    const name = `/${shown(path).replaceAll(',', '/')}`
    const known = this.#signatures.get(name)
    if (!known) return []
    const self: Row = new Map<string, Value>([
      ['type', 'self'],
      ['name', name.split('/').at(-1)!],
      ['node-type', 'cmd'],
    ])
    return [
      self,
      ...(known.named ?? []).map(
        (argument): Row =>
          new Map<string, Value>([
            ['type', 'child'],
            ['name', argument],
            ['node-type', 'arg'],
          ]),
      ),
    ]
  }

  async #holds(condition: Condition, row: Row): Promise<boolean> {
    switch (condition.kind) {
      case 'and':
        return (await this.#holds(condition.left, row)) && (await this.#holds(condition.right, row))
      case 'or':
        return (await this.#holds(condition.left, row)) || (await this.#holds(condition.right, row))
      case 'not':
        return !(await this.#holds(condition.of, row))
      case 'set':
        return row.get(condition.name) === true
      case 'compare': {
        const is = yesNo(row.get(condition.name))
        const other = yesNo(await this.#value(condition.value))
        if (condition.operator === '~') return new RegExp(other).test(is)
        return (is === other) === (condition.operator === '=')
      }
    }
  }

  #serialized(value: Value): string {
    const json = (part: Value): unknown => {
      if (part instanceof Map) return Object.fromEntries([...part].map(([key, field]) => [key, json(field)]))
      return Array.isArray(part) ? part.map(json) : part
    }
    const text = JSON.stringify(json(value) ?? null)
    return this.#floats ? text.replace(/:(\d+)(?=[,}])/g, ':$1.000000') : text
  }

  async #texts(command: Command): Promise<Map<string, string>> {
    const texts = new Map<string, string>()
    for (const [name, value] of command.named) texts.set(name, shown(await this.#value(value)))
    return texts
  }

  async #named(command: Command, name: string): Promise<Value> {
    const value = command.named.get(name)
    return value && this.#value(value)
  }

  async #positional(command: Command, at: number): Promise<Value> {
    const value = command.positional[at]
    return value && this.#value(value)
  }

  #bareWord(command: Command, at: number): string {
    const value = command.positional[at]
    if (value?.kind !== 'word') throw new ScriptError('syntax error (line 1 column 1)')
    return value.text
  }

  async #value(expression: Expression): Promise<Value> {
    switch (expression.kind) {
      case 'word':
        return expression.text === 'true' ? true : expression.text === 'false' ? false : expression.text
      case 'variable':
        return this.#variables.get(expression.name)
      case 'result':
      case 'block':
        return this.all(expression.script)
      case 'join':
        return shown(await this.#value(expression.left)) + shown(await this.#value(expression.right))
      case 'text': {
        let text = ''
        for (const part of expression.parts) text += typeof part === 'string' ? part : shown(await this.#value(part))
        return text
      }
    }
  }
}

const idOf = (disk: FileDisk): string => `*${disk.id.toString(16).toUpperCase()}`

function shown(value: Value): string {
  if (value === undefined) return ''
  if (value instanceof Map) return [...value].map(([key, field]) => `${key}=${shown(field)}`).join(';')
  return Array.isArray(value) ? value.map(shown).join(';') : String(value)
}

const yesNo = (value: Value): string => (value === true ? 'yes' : value === false ? 'no' : shown(value))

function changes(values: Map<string, string>): Partial<FileDisk> {
  const change: Partial<FileDisk> = {}
  const text = (name: string, set: (value: string) => void): void => {
    const value = values.get(name)
    if (value !== undefined) set(value)
  }
  text('slot', (value) => (change.slot = value))
  text('file-path', (value) => (change.path = value))
  text('mount-filesystem', (value) => (change.mountFilesystem = bool('mount-filesystem', value)))
  text('nvme-tcp-export', (value) => (change.exported = bool('nvme-tcp-export', value)))
  text('nvme-tcp-server-port', (value) => (change.port = whole('nvme-tcp-server-port', value)))
  text('nvme-tcp-server-nqn', (value) => (change.nqn = value))
  text('nvme-tcp-server-allow-host-name', (value) => (change.allowedHost = value))
  return change
}

function bool(name: string, value: string): boolean {
  if (value !== 'yes' && value !== 'no') throw new ScriptError(`invalid value for argument ${name}`)
  return value === 'yes'
}

function whole(name: string, value: string): number {
  if (!/^\d+$/.test(value)) throw new ScriptError(`invalid value for argument ${name}`)
  return Number(value)
}

const bytesIn = (values: Map<string, string>): number | undefined => {
  const text = values.get('file-size')
  return text === undefined ? undefined : whole('file-size', text)
}

/** Properties that a router prints in quotes. */
const QUOTED = new Set([
  'slot',
  'slot-default',
  'parent',
  'model',
  'nvme-tcp-server-nqn',
  'nvme-tcp-server-allow-host-name',
  'mount-point',
  'state',
])

function record(row: Row): Printed {
  const flags = `${row.has('slot') ? 'B' : ''}${row.get('mounted') ? 'M' : ''}${row.get('nvme-tcp-export') ? 't' : ''}`
  const fields = [...row].flatMap(([key, value]): [string, string][] => {
    if (key === '.id' || key === 'mounted') return []
    if (row.has('name') && key === 'type') return [['type', '.img']]
    if (row.has('name') && key === 'size') return [['file size', rounded(value as number)]]
    if (key === 'file-size') return [[key, rounded(value as number)]]
    if (typeof value === 'number' && (key === 'size' || key === 'free')) return [[key, grouped(value)]]
    return [[key, QUOTED.has(key) ? `"${shown(value).replace(/[\\"$]/g, '\\$&')}"` : yesNo(value)]]
  })
  return { flags, fields }
}
