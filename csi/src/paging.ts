/**
 * Lists in pages. A token is the id after which the next page begins, so that it stays good when what it names is deleted.
 */
import { aborted, invalidArgument } from './errors.ts'

export interface Page<T> {
  entries: T[]
  nextToken: string
}

/**
 * @param maxEntries 0 for all
 * @param isToken whether a text can be a token at all: ABORTED, as the specification wants, where not
 */
export function pageOf<T extends { id: string }>(
  all: T[],
  { maxEntries, startingToken }: { maxEntries: number; startingToken: string },
  isToken: (text: string) => boolean,
): Page<T> {
  if (maxEntries < 0) throw invalidArgument(`max_entries must not be negative, got ${maxEntries}`)
  if (startingToken !== '' && !isToken(startingToken))
    throw aborted(`starting_token "${startingToken}" is none of ours; begin the list again without one`)
  const rest = all.filter(({ id }) => id > startingToken).sort((a, b) => (a.id < b.id ? -1 : 1))
  const entries = maxEntries === 0 ? rest : rest.slice(0, maxEntries)
  return { entries, nextToken: entries.length < rest.length ? entries[entries.length - 1]!.id : '' }
}
