import { Args } from '@oclif/core'
import { BaseCommand, parseId } from '../lib/base-command.ts'

export default class Stop extends BaseCommand {
  static override summary = 'Stop a device: its block device goes, its record stays.'
  static override description = `The kernel stops a device also while it is open or mounted: what is not yet written fails. Unmount first. \
/dev/ublkbN goes; the device stays listed as dead, and its server, if there is one, keeps it until \`ublk del\`.`

  static override examples = ['<%= config.bin %> stop 0']
  static override args = { id: Args.string({ required: true, description: 'number N of /dev/ublkbN, or its path' }) }

  async run(): Promise<{ stopped: number }> {
    const { args } = await this.parse(Stop)
    const id = parseId(args.id)
    const { stopDevice } = await import('ublk')
    await stopDevice(id)
    return { stopped: id }
  }
}
