import type { Features as DriverFeatures } from 'ublk'
import { BaseCommand } from '../lib/base-command.ts'
import { columns } from '../lib/columns.ts'

export default class Features extends BaseCommand {
  static override summary = 'Show which features the ublk driver of this kernel has, and what takes each into use.'
  static override examples = [
    '<%= config.bin %> features',
    {
      description: 'Whether zero copy is there',
      command: `<%= config.bin %> features --json | jq '.flags[] | select(.name == "UBLK_F_SUPPORT_ZERO_COPY").here'`,
    },
  ]

  async run(): Promise<DriverFeatures> {
    await this.parse(Features)
    const { features } = await import('ublk')
    const found = await features()
    const rows = found.flags.map(({ bit, name, here, since, use }) => [name, bit, here ? 'yes' : 'no', since, use])
    this.log(`mask ${found.mask}\n${columns(['FEATURE', 'BIT', 'HERE', 'SINCE', 'USED BY'], rows)}`)
    return found
  }
}
