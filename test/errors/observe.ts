/**
 * What the error tests share: provoke a failure, check how it is told, keep it as a row of docs/errors.md.
 *
 * Rows are written to /out in the VM, which `vm/run --out` copies to the host, or to the directory OBSERVED: see test/errors/run.
 */
import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { getSystemErrorName } from 'node:util'
import type { ExecutionContext } from 'ava'
import { errorOf, type RunOptions, ublk } from '../../cli/test/program.ts'
import type { Row, SectionName } from './render.ts'

/** Runs a program without rights, and with a home of its own. */
export const NOBODY = [
  ...['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--'],
  ...['env', 'HOME=/tmp/nobody', 'XDG_RUNTIME_DIR=/tmp/nobody'],
]
export const ROOT: string = path.resolve(import.meta.dirname, '../..')

/** An error as its receiver sees it. */
export interface Told {
  code: string
  message: string
  hint: string
  errno: number | null
}

/** `ublk ARGS…`, and how it is run. */
export type Command = RunOptions & { args: string[] }

/** One thing that is wrong, and how to run into it: by a call that must reject, by a command that must fail, or by both. */
export interface Case {
  what: string
  library?: () => Promise<unknown>
  command?: Command
}

/** The rows of one test file, in the order of its tests. */
export class Report {
  readonly #name: string
  readonly #rows: Row[] = []
  readonly #replacements: [found: string, shown: string][] = [[ROOT, '/checkout']]

  constructor(name: string) {
    this.#name = name
  }

  /** From now on the document shows `shown` for `found`, which is another one in each run. */
  conceal(found: string, shown: string): void {
    this.#replacements.unshift([found, shown])
  }

  add(section: SectionName, ...cells: string[]): void {
    this.#rows.push({ section, cells: cells.map((cell) => this.#stable(cell)) })
  }

  /** Provokes a case. One row when the library and the program say the same, else one for each. */
  async provoke(t: ExecutionContext, section: SectionName, { what, library, command }: Case): Promise<void> {
    const [thrown, printed] = await Promise.all([
      library === undefined ? null : rejection(t, library),
      command === undefined ? null : failedCommand(t, command),
    ])
    if (thrown !== null) {
      const isSame = printed !== null && this.#stable(text(thrown)) === this.#stable(text(printed))
      this.add(section, what, ...cells(thrown), isSame ? String(printed.exitCode) : '')
      if (isSame) return
    }
    if (printed === null) return
    const [verb, target = ''] = command?.args ?? []
    const name = thrown === null ? what : `… with \`${['ublk', verb, target.startsWith('/') ? 'MODULE' : target].join(' ').trim()}\``
    this.add(section, name, ...cells(printed), String(printed.exitCode))
  }

  write(): void {
    writeFileSync(path.join(process.env.OBSERVED ?? '/out', `${this.#name}.json`), JSON.stringify(this.#rows, null, 1))
  }

  #stable(text: string): string {
    const known = this.#replacements.reduce((changed, [found, shown]) => changed.replaceAll(found, shown), text)
    return known
      .replaceAll(/\b(device|devices) \d+/g, '$1 N')
      .replaceAll(/\/dev\/ublk([bc])\d+/g, '/dev/ublk$1N')
      .replaceAll(/`ublk del \d+`/g, '`ublk del N`')
      .replaceAll(/ \(and \d+ more since the last report\)/g, '')
  }
}

/** For comparing: the program says `--size must be …` where the library says `size must be …`, and means the same. */
function text({ code, message, hint, errno }: Told): string {
  return JSON.stringify([code, message.replace(/^\S+ (?=must )/, ''), hint, errno])
}

function cells({ code, message, hint, errno }: Told): string[] {
  return [`\`${code}\``, hint === '' ? message : `${message}<br>*${hint}*`, errno === null ? '' : `\`${getSystemErrorName(errno)}\``]
}

/** What the call rejects with; the test fails when it resolves, or when the message is no plain sentence. */
export async function rejection(t: ExecutionContext, call: () => Promise<unknown>): Promise<Told> {
  try {
    await call()
  } catch (error) {
    const { code = '', message, hint = '', errno = null } = error as Error & Partial<Told>
    return checked(t, { code, message, hint, errno: errno ?? null })
  }
  throw new Error('nothing was thrown')
}

function checked(t: ExecutionContext, told: Told): Told {
  t.regex(told.code, /^(ERR_[A-Z_]+|ABORT_ERR)$/, JSON.stringify(told))
  t.regex(told.message, /^[^\n]+$/, 'the message is one line')
  t.notRegex(told.message, /^\s+at /m, 'no stack trace')
  t.regex(told.hint, /^([^\n]+[.?)])?$/, 'the hint is a sentence')
  return told
}

/** The same report as text, on the host; in the VM, where a start of the program takes a second, --json has to do. */
const COMPARES_TEXT: boolean = process.env.UBLK_VM === undefined

/** Runs `ublk ARGS…` with --json. */
async function failedCommand(t: ExecutionContext, { args, ...options }: Command): Promise<Told & { exitCode: number }> {
  const [json, plain] = await Promise.all([ublk([...args, '--json'], options), COMPARES_TEXT ? ublk(args, options) : null])
  t.is(json.stderr, '')
  const { code, message, hint, errno = null, exitCode } = errorOf(json) as unknown as Told & { hint: string | null; exitCode: number }
  t.is(json.status, exitCode)
  if (plain !== null) {
    t.is(plain.stdout, '')
    t.is(plain.stderr, `ublk: ${message}\n${hint === null ? '' : `hint: ${hint}\n`}`)
    t.is(plain.status, exitCode)
  }
  return { ...checked(t, { code, message, hint: hint ?? '', errno }), exitCode }
}

/** Calls of the library in a process of its own: `body` may use what the package exports, as `ublk`. */
export async function inChild(
  body: string,
  { through = [], nodeOptions = '' }: { through?: string[]; nodeOptions?: string } = {},
): Promise<never> {
  const program = `
    const ublk = await import(${JSON.stringify(path.join(ROOT, 'src/index.ts'))})
    try {
      ${body}
      console.log('null')
    } catch (error) {
      const { code, message, hint, errno } = error
      console.log(JSON.stringify({ code, message, hint, errno }))
    }`
  const [command = '', ...rest] = [...through, process.execPath, '--input-type=module', '--eval', program]
  // After what the VM has put there: without its loader of TypeScript, Node crashes now and then.
  const options = [process.env.NODE_OPTIONS ?? '', nodeOptions].join(' ')
  const answer = await output(command, rest, { ...process.env, NODE_OPTIONS: options })
  const told = JSON.parse(answer) as Told | null
  if (told === null) throw new Error(`nothing was thrown by: ${body}`)
  throw Object.assign(new Error(told.message), told)
}

function output(command: string, args: string[], env: NodeJS.ProcessEnv): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(command, args, { env, timeout: 60_000 }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else reject(new Error(`${command} ended with ${error.signal ?? error.code}${error.killed ? ', after 60 s' : ''}: ${stdout}${stderr}`))
    })
  })
}

const ERRNO_OF_TEXT: Record<string, string> = {
  'Input/output error': 'EIO',
  'No space left on device': 'ENOSPC',
  'Connection timed out': 'ETIMEDOUT',
  'No data available': 'ENODATA',
  'Operation not supported': 'EOPNOTSUPP',
  'Operation not permitted': 'EPERM',
}

/**
 * Reads or writes one block past the page cache.
 * @returns the errno as the reader or writer gets it, such as 'EIO', or 'done'
 */
export function direct(operation: 'read' | 'write', device: string, offset: number, block = 4096): Promise<string> {
  const at = offset / block
  const args =
    operation === 'read'
      ? [`if=${device}`, 'of=/dev/null', `skip=${at}`, 'iflag=direct']
      : ['if=/dev/zero', `of=${device}`, `seek=${at}`, 'oflag=direct', 'conv=notrunc']
  return new Promise((resolve) => {
    execFile('dd', [...args, `bs=${block}`, 'count=1', 'status=none'], { timeout: 60_000 }, (error, _, stderr) => {
      const said = stderr.trim().split(': ').at(-1) ?? ''
      resolve(error === null ? 'done' : (ERRNO_OF_TEXT[said] ?? `${error.message}: ${stderr}`))
    })
  })
}
