/** Picks from the log of a failed suite the lines that tell what failed. */
import type { CountFormat } from './suites.ts'

const shownLines = 40
const shownColumns = 300
/** Of one failed test: the name, the assertion and the first of the difference, and from its end what was expected and where. */
const shownLinesOfTest = { first: 22, last: 12 }
const shownTests = 5

/** One failed test of TAP, with what the runner says of it. */
const failedTest = /^ *not ok .*(?:\n(?! *(?:not )?ok |# |1\.\.).*)*/gm

/** The failed tests as the suite tells them, at most a few; else the end of the log. */
export function excerpt(log: string, format: CountFormat): string[] {
  const tests = format === 'tap' ? [...log.matchAll(failedTest)].map(([text]) => shorten(text.trimEnd().split('\n'))) : []
  const left = tests.length - shownTests
  const shown = tests.slice(0, shownTests).flat()
  if (left > 0) shown.push(`… and ${left} more`)
  return (shown.length > 0 ? shown : log.trimEnd().split('\n').slice(-shownLines)).map((line) => line.slice(0, shownColumns))
}

function shorten(lines: string[]): string[] {
  const { first, last } = shownLinesOfTest
  const told = lines.filter((line) => line.trim() !== '')
  if (told.length <= first + last) return told
  return [...told.slice(0, first), `… ${told.length - first - last} more lines`, ...told.slice(-last)]
}
