/** What a test failed with, in one line: the first panic of a Rust test, the first assertion of one in TypeScript, or its time-out. */

const LONGEST = 200
/** Differences of a deep comparison, beyond which they say no more. */
const MOST_DIFFERENCES = 4

export interface Ended {
  /** Null: it did not end in its time. */
  status: number | null
  seconds: number
  output: string
}

export function failureIn(result: Ended | undefined): string {
  if (result === undefined) return 'it was not run'
  const { status, seconds, output } = result
  const end = status === null ? `no end within ${seconds} s` : undefined
  const told = [panicIn(output) ?? assertionIn(output), end].filter((part) => part !== undefined).join('; then ') || `exit status ${status}`
  return told.length > LONGEST ? `${told.slice(0, LONGEST - 1)}…` : told
}

/** With the values of a comparison, or the entries of a list. */
function panicIn(output: string): string | undefined {
  const [, file, line, text = '', rest = ''] = /panicked at (\S+?):(\d+):\d+:\n(.*)\n((?: +.*\n)*)/.exec(output) ?? []
  if (file === undefined) return undefined
  const message = text.replace('called `Result::unwrap()` on an `Err` value: ', '')
  const values = /failed\b.*|\[$/.test(text) ? ` ${rest.trim().replaceAll(/,?\s*\n\s*/g, ', ')}` : ''
  return `${file.replace(/^crates\/[^/]+\/(src|tests)\//, '')}:${line}: ${message}${values}`.trimEnd()
}

/** The assertion and what differs: where it stands in the test is not told. */
function assertionIn(output: string): string | undefined {
  const [, title, details = ''] = /^not ok \d+ - (.*)\n((?: {2}.*\n)*)/m.exec(output) ?? []
  if (title === undefined) return undefined
  const [, assertion = ''] = /^ {4}assertion: (.*)$/m.exec(details) ?? []
  const [, message = ''] = /^ {4}message: (?:>-\n {6})?(.*)$/m.exec(details) ?? []
  // Of a promise that was rejected the error's own words.
  const [, reason = ''] = /^ {10}message: ['`](.*?)[␊'`,]*$/m.exec(details) ?? []
  const differences = [...details.matchAll(/^ {8}([-+] .*)$/gm)].map(([, line = '']) => line.replace(/^([-+]) +/, '$1 '))
  const told = [assertion, message.replaceAll("'", ''), reason, differences.slice(0, MOST_DIFFERENCES).join(' ')]
  return `${title}: ${told.filter((part) => part !== '').join(' ')}`
}
