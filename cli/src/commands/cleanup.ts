import * as Flags from '@oclif/core/flags'
import { BaseCommand, printWarning } from '../lib/base-command.ts'
import { type Finding, findOrphans, removeOrphan } from '../lib/cleanup.ts'
import { columns } from '../lib/columns.ts'

type Outcome = Finding & { removed: boolean }

export default class Cleanup extends BaseCommand {
  static override summary = 'Remove what servers that are gone have left: dead devices, records and sockets.'
  static override description =
    `A device is an orphan when it is dead (nobody serves it, and its requests have failed) and its server is gone. The driver does not \
tell who made a dead one: that of a program with the library, which it has stopped or not started yet, is one too, but in the minute after it \
was added. Devices that wait for \`ublk recover\` (quiesced or \
fail_io) are shown, and removed with --all only: what waits for them fails then. Live devices are never touched.`

  static override examples = [
    { description: 'What it would do', command: '<%= config.bin %> cleanup --dry-run' },
    '<%= config.bin %> cleanup',
    { description: 'Give up also what could be recovered', command: '<%= config.bin %> cleanup --all --json' },
  ]

  static override flags = {
    all: Flags.boolean({ char: 'a', default: false, summary: 'also devices that could be recovered' }),
    'dry-run': Flags.boolean({ default: false, summary: 'only show what there is' }),
  }

  async run(): Promise<{ found: Outcome[] }> {
    const { flags } = await this.parse(Cleanup)
    const found: Outcome[] = []
    const errors: unknown[] = []
    for (const finding of await findOrphans()) {
      const isWanted = !flags['dry-run'] && (flags.all || finding.kind !== 'recoverable')
      try {
        found.push(isWanted ? await remove(finding) : { ...finding, removed: false })
      } catch (error) {
        errors.push(error)
        found.push({ ...finding, removed: false })
      }
    }
    const rows = found.map(({ id, kind, reason, removed }) => [String(id), kind, removed ? 'removed' : 'left', reason])
    this.log(rows.length === 0 ? 'nothing to clean up' : columns(['ID', 'KIND', '', 'WHY'], rows))
    // Everything is tried; the first failure is the verb's, the others are told.
    errors.slice(1).forEach(printWarning)
    if (errors.length > 0) throw errors[0]
    return { found }
  }
}

async function remove(finding: Finding): Promise<Outcome> {
  const removed = await removeOrphan(finding)
  return { ...finding, reason: removed ? finding.reason : `${finding.reason}; no longer so`, removed }
}
