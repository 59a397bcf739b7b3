/** What a test failed with, in one line: the first panic of a Rust test, the first assertion of one in TypeScript, or its time-out. */
import path from 'node:path'

const LONGEST = 160

export function failureIn(result: { status: number | null; seconds: number; output: string } | undefined): string {
  if (result === undefined) return 'it was not run'
  const { status, seconds, output } = result
  const said = panicIn(output) ?? assertionIn(output)
  const end = status === null ? (seconds === 0 ? output : `no end within ${seconds} s`) : undefined
  const told = [said, end].filter((part) => part !== undefined).join('; then ') || `exit status ${status}`
  return told.length > LONGEST ? `${told.slice(0, LONGEST - 1)}…` : told
}

/** With the values of an assertion that has no words of its own. */
function panicIn(output: string): string | undefined {
  const [, file, line, text = '', rest = ''] = /panicked at (\S+?):(\d+):\d+:\n(.*)\n((?: {2}.*\n)*)/.exec(output) ?? []
  if (file === undefined) return undefined
  const values = /failed$/.test(text) ? `, ${rest.trim().replaceAll(/\s*\n\s*/g, ', ')}` : ''
  return `${path.basename(file)}:${line}: ${text}${values}`
}

/** The assertion and what differs: ava tells no line of the test's here. */
function assertionIn(output: string): string | undefined {
  const [, title, details = ''] = /^not ok \d+ - (.*)\n((?: {2}.*\n)*)/m.exec(output) ?? []
  if (title === undefined) return undefined
  const [, assertion = 'failed'] = /^ {4}assertion: (.*)$/m.exec(details) ?? []
  const differs = [...details.matchAll(/^ {8}([-+] .*)$/gm)].map(([, line]) => line)
  const [, message = ''] = /^ {4}message: (?:>-\n {6})?(.*)$/m.exec(details) ?? []
  return [title, assertion, message.replaceAll("'", ''), ...differs.slice(0, 4)].filter(Boolean).join(': ')
}
