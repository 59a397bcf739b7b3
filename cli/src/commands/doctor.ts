import { BaseCommand } from '../lib/base-command.ts'
import { pairs } from '../lib/columns.ts'
import { type Check, examine, exitStatusOf } from '../lib/doctor.ts'

export default class Doctor extends BaseCommand {
  static override summary = 'Check whether this machine can serve ublk devices, and say how to mend what is wrong.'
  static override description = 'Ends with 0 when nothing fails, else with 4 when only rights are missing, else with 5.'
  static override examples = ['<%= config.bin %> doctor', `<%= config.bin %> doctor --json | jq '.checks[] | select(.status != "ok")'`]

  async run(): Promise<{ ok: boolean; checks: Check[] }> {
    await this.parse(Doctor)
    const checks = await examine()
    const status = exitStatusOf(checks)
    this.log(pairs(checks.flatMap(lines)))
    process.exitCode = status
    return { ok: status === 0, checks }
  }
}

function lines({ name, status, message, hint }: Check): [string, string][] {
  return [[status.padEnd(4), `${name}: ${message}`], ...(hint === null ? [] : ([['', `→ ${hint}`]] as [string, string][]))]
}
