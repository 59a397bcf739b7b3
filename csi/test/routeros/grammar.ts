/**
 * The language of the RouterOS console, as much of it as a driver could reach: statements, paths, arguments, strings with all escapes and
 * with `$variable`, `$(…)` and `$[…]` inside, `[…]`, `{…}`, `(…)`, `where`. Text in, a tree out; nothing is run.
 *
 * Names are resolved while parsing, as on a router: one unknown command or argument, and nothing of the script runs.
 */

export type Expression =
  | { kind: 'text'; parts: (string | Expression)[] }
  | { kind: 'word'; text: string }
  | { kind: 'variable'; name: string }
  | { kind: 'result'; script: Command[] }
  | { kind: 'block'; script: Command[] }
  | { kind: 'join'; left: Expression; right: Expression }

export type Condition =
  | { kind: 'compare'; name: string; operator: string; value: Expression }
  | { kind: 'set'; name: string }
  | { kind: 'not'; of: Condition }
  | { kind: 'and' | 'or'; left: Condition; right: Condition }

export interface Command {
  /** `:put`, or a path with its command: `/disk/add`. */
  name: string
  named: Map<string, Expression>
  positional: Expression[]
  flags: Set<string>
  where?: Condition
}

/** What a command takes. */
export interface Signature {
  /** Names before `=`. */
  named?: readonly string[]
  /** Words that stand alone. */
  flags?: readonly string[]
  /** Most expressions that may stand without a name. */
  positional?: number
  where?: boolean
}

export interface Language {
  isMenu(path: string): boolean
  signature(name: string): Signature | undefined
}

/** Said in the words of a router. */
export class ScriptError extends Error {}

const ESCAPES: Record<string, string> = {
  '"': '"',
  '\\': '\\',
  $: '$',
  n: '\n',
  r: '\r',
  t: '\t',
  _: ' ',
  a: '\x07',
  b: '\b',
  f: '\f',
  v: '\v',
  '?': '?',
}
const NAME = /[A-Za-z0-9_-]/
const ENDS = new Set([';', '\n', '\r', ']', '}', ')', ''])

export function parse(script: string, language: Language): Command[] {
  const parser = new Parser(script, language)
  const commands = parser.statements('/', '')
  return commands
}

class Parser {
  readonly #text: string
  readonly #language: Language
  #at = 0

  constructor(text: string, language: Language) {
    this.#text = text
    this.#language = language
  }

  /** Until `closing`, which is taken. */
  statements(menu: string, closing: string): Command[] {
    const commands: Command[] = []
    for (;;) {
      this.#skip(/[\s;]/)
      if (this.#peek() === closing) {
        this.#at++
        return commands
      }
      if (this.#peek() === '#') {
        this.#skip(/[^\n]/)
      } else if (this.#peek() === '{') {
        this.#at++
        commands.push(...this.statements(menu, '}'))
      } else {
        commands.push(this.#command(menu))
        this.#skip(/[ \t]/)
        const next = this.#peek()
        if (next !== closing && next !== ';' && next !== '\n' && next !== '\r') this.#syntaxError()
      }
    }
  }

  #command(menu: string): Command {
    const { name, inMenu } = this.#commandName(menu)
    const signature = this.#language.signature(name)!
    const command: Command = { name, named: new Map(), positional: [], flags: new Set() }
    for (;;) {
      this.#skip(/[ \t]/)
      if (ENDS.has(this.#peek())) return command
      this.#argument(command, signature, inMenu)
    }
  }

  #commandName(menu: string): { name: string; inMenu: string } {
    const start = this.#at
    if (this.#peek() === ':') {
      this.#at++
      const word = this.#word()
      if (!this.#language.signature(`:${word}`)) this.#fail(`bad command name ${word}`, start + 1)
      return { name: `:${word}`, inMenu: menu }
    }
    let path = this.#peek() === '/' ? '' : menu.replace(/\/$/, '')
    for (;;) {
      this.#skip(/[ \t/]/)
      const at = this.#at
      const word = this.#word()
      if (word === '') this.#syntaxError()
      if (this.#language.isMenu(`${path}/${word}`)) path = `${path}/${word}`
      else if (this.#language.signature(`${path}/${word}`)) return { name: `${path}/${word}`, inMenu: path }
      else this.#fail(`bad command name ${word}`, at)
    }
  }

  #argument(command: Command, signature: Signature, menu: string): void {
    const start = this.#at
    const word = this.#word()
    if (word !== '' && this.#peek() === '=') {
      if (!signature.named?.includes(word)) this.#fail('expected end of command', start)
      this.#at++
      if (command.named.has(word)) this.#fail('expected end of command', start)
      command.named.set(word, this.#value(menu))
    } else if (word === 'where' && signature.where) {
      command.where = this.#condition(menu)
    } else if (word !== '' && signature.flags?.includes(word) && /[\s;\])}]|^$/.test(this.#peek())) {
      command.flags.add(word)
    } else {
      this.#at = start
      if (command.positional.length >= (signature.positional ?? 0)) this.#fail('expected end of command', start)
      command.positional.push(this.#value(menu))
    }
  }

  #value(menu: string): Expression {
    switch (this.#peek()) {
      case '"':
        return this.#string(menu)
      case '[':
        this.#at++
        return { kind: 'result', script: this.statements(menu, ']') }
      case '{':
        this.#at++
        return { kind: 'block', script: this.statements(menu, '}') }
      case '(':
        return this.#parenthesis(menu)
      case '$':
        this.#at++
        return this.#afterDollar(menu)
    }
    const start = this.#at
    this.#skip(/[^\s;[\]{}()"$]/)
    if (this.#at === start || '[{("$'.includes(this.#peek() || ' ')) this.#syntaxError()
    return { kind: 'word', text: this.#text.slice(start, this.#at) }
  }

  #parenthesis(menu: string): Expression {
    this.#at++
    this.#skip(/\s/)
    let left = this.#value(menu)
    for (;;) {
      this.#skip(/\s/)
      if (this.#peek() === ')') {
        this.#at++
        return left
      }
      if (this.#peek() !== '.') this.#syntaxError()
      this.#at++
      this.#skip(/\s/)
      left = { kind: 'join', left, right: this.#value(menu) }
    }
  }

  #string(menu: string): Expression {
    const parts: (string | Expression)[] = []
    let piece = ''
    for (this.#at++; this.#peek() !== '"'; ) {
      const character = this.#peek()
      if (character === '') this.#syntaxError()
      this.#at++
      if (character === '\\') piece += this.#escape()
      else if (character === '$') {
        parts.push(piece, this.#afterDollar(menu))
        piece = ''
      } else piece += character
    }
    this.#at++
    return { kind: 'text', parts: [...parts, piece] }
  }

  #escape(): string {
    const hex = /^[0-9A-F]{2}/.exec(this.#text.slice(this.#at, this.#at + 2))
    if (hex) {
      this.#at += 2
      return String.fromCharCode(Number.parseInt(hex[0], 16))
    }
    const code = this.#peek()
    // A backslash at the end of a line joins it with the next.
    if (code === '\n') {
      this.#skip(/\s/)
      return ''
    }
    if (!(code in ESCAPES)) this.#syntaxError()
    this.#at++
    return ESCAPES[code]!
  }

  #afterDollar(menu: string): Expression {
    if (this.#peek() === '[') {
      this.#at++
      return { kind: 'result', script: this.statements(menu, ']') }
    }
    if (this.#peek() === '(') return this.#parenthesis(menu)
    const start = this.#at
    this.#skip(/[A-Za-z0-9]/)
    if (this.#at === start) this.#syntaxError()
    return { kind: 'variable', name: this.#text.slice(start, this.#at) }
  }

  #condition(menu: string): Condition {
    let left = this.#conjunction(menu)
    while (this.#takeWord('or')) left = { kind: 'or', left, right: this.#conjunction(menu) }
    return left
  }

  #conjunction(menu: string): Condition {
    let left = this.#term(menu)
    while (this.#takeWord('and')) left = { kind: 'and', left, right: this.#term(menu) }
    return left
  }

  #term(menu: string): Condition {
    this.#skip(/[ \t]/)
    if (this.#peek() === '!') {
      this.#at++
      return { kind: 'not', of: this.#term(menu) }
    }
    if (this.#peek() === '(') {
      this.#at++
      const inner = this.#condition(menu)
      this.#skip(/[ \t]/)
      if (this.#peek() !== ')') this.#syntaxError()
      this.#at++
      return inner
    }
    const name = this.#word()
    if (name === '') this.#syntaxError()
    const operator = /^(!=|=|~)/.exec(this.#text.slice(this.#at))?.[0]
    if (!operator) return { kind: 'set', name }
    this.#at += operator.length
    return { kind: 'compare', name, operator, value: this.#value(menu) }
  }

  #takeWord(word: string): boolean {
    const start = this.#at
    this.#skip(/[ \t]/)
    if (this.#word() === word) return true
    this.#at = start
    return false
  }

  #word(): string {
    const start = this.#at
    if (this.#peek() === '.') this.#at++
    this.#skip(NAME)
    return this.#text.slice(start, this.#at)
  }

  #skip(what: RegExp): void {
    while (this.#at < this.#text.length && what.test(this.#text[this.#at]!)) this.#at++
  }

  #peek(): string {
    return this.#text[this.#at] ?? ''
  }

  #syntaxError(): never {
    return this.#fail('syntax error', this.#at)
  }

  #fail(what: string, at: number): never {
    const before = this.#text.slice(0, at).split('\n')
    throw new ScriptError(`${what} (line ${before.length} column ${before.at(-1)!.length + 1})`)
  }
}
