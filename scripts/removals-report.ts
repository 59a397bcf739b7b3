/** Writes docs/removals.md: what was removed, and what noticed it. */
import { writeFileSync } from 'node:fs'
import { table } from '../bench/markdown.ts'
import { type Row, removals } from './removals-table.ts'

export interface Outcome {
  /** `void`: nothing is proved. */
  kind: 'noticed' | 'survived' | 'void'
  /** What the test failed with, or why it did not. */
  told: string
}

export function writeDocument(kernel: string, outcomes: ReadonlyMap<Row, Outcome>): void {
  const chapters = Object.entries(removals).map(([heading, rows]) => `## ${heading}\n\n${tableOf(rows, outcomes)}\n`)
  const text = `# What notices when code for the driver is gone

[kernel-support.md](kernel-support.md) names a test for each flag, command, operation and parameter. \`make removals\` sees each of them fail: it
removes our code for one at a time by the smallest edit that does it (scripts/removals-table.ts), builds the test, and runs it on Linux ${kernel},
or on the kernel that is said in brackets; on the sources as they are the same test has to pass. It fails when a removal goes unnoticed.
\`make removals ARGS=--write-docs\` writes this page, and \`ARGS='--only FETCH_REQ'\` runs a part.

A test that hangs has noticed too: a command that is never sent is never answered.

${chapters.join('\n')}`
  writeFileSync('docs/removals.md', text)
}

function tableOf(rows: readonly Row[], outcomes: ReadonlyMap<Row, Outcome>): string {
  const cells = rows.map((row) => {
    const { kind, told } = outcomes.get(row) as Outcome
    const test = row.kernel === undefined ? row.test : `${row.test} (${row.kernel})`
    return [row.name, row.what, test, kind === 'noticed' ? code(told) : `nothing: ${told}`]
  })
  return table(['name', 'removed', 'test', 'it failed with'], cells)
}

/** As code, in a cell. */
function code(text: string): string {
  return `\`${text.replaceAll('`', "'").replaceAll('|', '\\|')}\``
}
