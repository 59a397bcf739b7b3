import * as Args from '@oclif/core/args'
import * as Flags from '@oclif/core/flags'
import { BaseCommand, parseId } from '../lib/base-command.ts'

export default class Stop extends BaseCommand {
  static override summary = 'Stop a device: its block device goes, its record stays.'
  static override description = `The kernel stops a device also while it is open or mounted: what is not yet written fails. Unmount first, \
or give --safe: then a device that somebody has open or mounted is left as it is, with exit status 6. \
/dev/ublkbN goes; the device stays listed as dead, and its server, if there is one, keeps it until \`ublk del\`.`

  static override examples = [
    '<%= config.bin %> stop 0',
    { description: 'Only if nobody has it open or mounted', command: '<%= config.bin %> stop 0 --safe' },
  ]

  static override args = { id: Args.string({ required: true, description: 'number N of /dev/ublkbN, or its path' }) }
  static override flags = {
    safe: Flags.boolean({ default: false, summary: 'only if nobody has the device open or mounted (Linux 7.0 and later)' }),
  }

  async run(): Promise<{ stopped: number }> {
    const { args, flags } = await this.parse(Stop)
    const id = parseId(args.id)
    const { stopDevice } = await import('ublk')
    await stopDevice(id, { safe: flags.safe })
    return { stopped: id }
  }
}
