import * as Flags from '@oclif/core/flags'
import { BaseCommand, parseId, printWarning } from '../lib/base-command.ts'
import { usage } from '../lib/failure.ts'
import { removeDevice } from '../lib/remove.ts'

export default class Del extends BaseCommand {
  static override summary = 'Stop devices and remove them.'
  static override description =
    `The server of a device is asked to end; where there is none any more, the device and what it left are removed. Returns when the device
and its server are gone; while somebody has the device open, it returns after two seconds: the device is dead then, and goes when the last user lets go. The kernel removes a device also while it is open or mounted: what is not yet written fails. Unmount first.`

  static override usage = 'del ID... | --all'
  static override examples = [
    '<%= config.bin %> del 0 1',
    '<%= config.bin %> del /dev/ublkb0',
    { description: 'Every ublk device of this machine, those of other programs too', command: '<%= config.bin %> del --all' },
  ]

  static override strict = false
  static override flags = {
    all: Flags.boolean({ char: 'a', default: false, summary: 'every ublk device of this machine' }),
    async: Flags.boolean({ default: false, summary: 'do not wait until the devices are gone' }),
  }

  async run(): Promise<{ deleted: number[] }> {
    const { argv, flags } = await this.parse(Del)
    if (flags.all === argv.length > 0) throw usage('give the devices to remove, or --all', 'See what there is with `ublk list`.')
    const { listDevices } = await import('ublk')
    const ids = flags.all ? (await listDevices()).map(({ id }) => id) : [...new Set((argv as string[]).map(parseId))]
    const deleted: number[] = []
    const errors: unknown[] = []
    for (const id of ids) {
      try {
        await removeDevice(id, { wait: !flags.async })
        deleted.push(id)
      } catch (error) {
        errors.push(error)
      }
    }
    // Every device is tried; the first failure is the verb's, the others are told.
    errors.slice(1).forEach(printWarning)
    if (errors.length > 0) throw errors[0]
    return { deleted }
  }
}
