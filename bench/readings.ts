/** What is read of the runs of a boot, and how it is shown. */
import type { Measure, Side } from './figures.ts'
import type { Results, Run } from './results.ts'

/** One value for each round. */
export function valuesOf({ runs }: Results, { contestant, job }: Side, measure: Measure): number[] {
  return runs.filter((run) => run.contestant === contestant && run.job === job).flatMap((run) => readingOf(run, measure) ?? [])
}

function readingOf(run: Run, measure: Measure): number | null {
  // fio's own mean latency leaves out part of the way; what passes between two requests is all of it.
  if (measure === 'microsecondsPerRequest') return 1e6 / run.rate
  return run[measure]
}

export function show(value: number, measure: Measure): string {
  switch (measure) {
    case 'rate':
      return `${(value / 1000).toFixed(1)}k`
    case 'bytesPerSecond':
      return `${(value / 1e6).toFixed(0)} MB/s`
    case 'microsecondsPerRequest':
      return `${value.toFixed(1)} µs`
    case 'serverNanosecondsPerRequest':
      return `${(value / 1000).toFixed(2)} µs`
  }
}
