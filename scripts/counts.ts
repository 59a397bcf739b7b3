/** Reads from a suite's output how many tests passed and failed. */
import type { CountFormat } from './suites.ts'

export interface Counts {
  passed: number
  failed: number
}

/** One closing line per test program: a suite may run several, their counts add up. */
const patterns: Record<CountFormat, { passed: RegExp; failed: RegExp }> = {
  cargo: { passed: /^test result: .*?(\d+) passed;/gm, failed: /^test result: .*?(\d+) failed;/gm },
  tap: { passed: /^# pass (\d+)$/gm, failed: /^# fail (\d+)$/gm },
  'closing-line': { passed: /^(\d+) passed, \d+ failed$/gm, failed: /^\d+ passed, (\d+) failed$/gm },
}

/** Counts as the suite's own output gives them; zeroes when it says nothing. */
export function readCounts(output: string, format: CountFormat): Counts {
  const sum = (pattern: RegExp): number => [...output.matchAll(pattern)].reduce((total, match) => total + Number(match[1]), 0)
  return { passed: sum(patterns[format].passed), failed: sum(patterns[format].failed) }
}

/** What suites print of a test, or of a program of tests, before their end. */
const lines: Record<CountFormat, { passed: RegExp; failed: RegExp }> = {
  cargo: { passed: /^test .* \.\.\. ok$/gm, failed: /^test .* \.\.\. FAILED$|not done in \d+ s/gm },
  tap: { passed: /^ok \d+ /gm, failed: /^not ok \d+ /gm },
  'closing-line': { passed: /(?!)/g, failed: /^ *FAIL(?:ED)?\b/gm },
}

/** Counts of a suite that did not come to its end, from the lines of its tests. */
export function countsSoFar(output: string, format: CountFormat): Counts {
  const count = (pattern: RegExp): number => [...output.matchAll(pattern)].length
  // Programs that did come to their end have told theirs.
  const told = readCounts(output, format)
  return { passed: Math.max(told.passed, count(lines[format].passed)), failed: Math.max(told.failed, count(lines[format].failed)) }
}

/**
 * The counts that stand for a suite: one that ended badly without naming a failed test counts one failure, and so does
 * one that ran no test at all.
 */
export function judge(counts: Counts, endedWell: boolean): Counts {
  const silentFailure = counts.failed === 0 && (!endedWell || counts.passed === 0)
  return silentFailure ? { passed: counts.passed, failed: 1 } : counts
}
