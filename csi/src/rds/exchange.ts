/**
 * Did the command work? Exit status and stream of a router's SSH are no reliable sign, so each script prints a last line of its own, with
 * a number that nobody can guess. What comes without that line failed, and what came instead is the reason.
 */
import type { Script } from './command.ts'

/** How a script is wrapped. `plain` serves a router without `:onerror`: an error ends a script there, so the last line never comes. */
export type Wrapping = 'onerror' | 'plain'

export function wrapped(script: Script, nonce: string, wrapping: Wrapping): string {
  if (wrapping === 'plain') return `${script}; :put "OK ${nonce}"`
  return `:onerror e in={ ${script}; :put "OK ${nonce}" } do={ :put ("ERR ${nonce} " . $e) }`
}

export type Outcome = { kind: 'done'; body: string } | { kind: 'refused'; reason: string } | { kind: 'cut' }

/** Reads a whole reply. `cut`: neither the last line nor a reason is there, so the command may have run or not. */
export function outcomeOf(reply: string, nonce: string): Outcome {
  const text = reply.replaceAll('\r', '')
  const done = new RegExp(`^OK ${nonce}$`, 'm').exec(text)
  if (done) return { kind: 'done', body: text.slice(0, done.index) }
  const refused = new RegExp(`^ERR ${nonce} ?([^]*)$`, 'm').exec(text)
  // Text that the command printed before it failed belongs to the reason: some errors are told there only.
  if (refused) return { kind: 'refused', reason: oneLine(`${refused[1]} ${text.slice(0, refused.index)}`) }
  // A piece of our own last line is no reason, it is a reply that was cut.
  const reason = oneLine(text)
  if (reason === '' || text.includes(nonce) || /(^|\n)(OK|ERR) ?\S*$/.test(text.trimEnd())) return { kind: 'cut' }
  return { kind: 'refused', reason }
}

/** Lines of the router's log may come in between, on the console that the command runs on. */
const LOG_LINE =
  /^(echo: \S+,\S+|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+,\S+|[a-z]{3}\/\d\d\/\d{4} \d\d:\d\d:\d\d \S+,\S+|\d\d:\d\d:\d\d (echo: )?\S+,\S+)/

export const withoutLog = (text: string): string =>
  text
    .replaceAll('\r', '')
    .split('\n')
    .filter((line) => !LOG_LINE.test(line))
    .join('\n')

const oneLine = (text: string): string => withoutLog(text).replace(/\s+/g, ' ').trim()
