import * as Args from '@oclif/core/args'
import * as Flags from '@oclif/core/flags'
import { BaseCommand, parseId } from '../lib/base-command.ts'
import { quiesce } from '../lib/hand-over.ts'
import { parseDurationMs } from '../lib/units.ts'

export default class Quiesce extends BaseCommand {
  static override summary = 'Have the server of a device let go of it, for another one: before an upgrade.'
  static override description =
    `The server answers the requests that it has and ends; new ones wait in the kernel, without an error, until \
\`ublk recover\` brings the next server. Only for devices that were made with --recovery; needs Linux 6.16. \
With --recovery fail-io new requests fail instead of waiting.`

  static override examples = [
    '<%= config.bin %> quiesce 0',
    {
      description: 'Another version of this program takes over',
      command: '<%= config.bin %> quiesce 0 && npm i -g ublk-cli && <%= config.bin %> recover 0',
    },
  ]

  static override args = { id: Args.string({ required: true, description: 'number N of /dev/ublkbN, or its path' }) }
  static override flags = {
    timeout: Flags.string({
      helpValue: 'TIME',
      default: '30s',
      summary: 'time for the server to answer what it has, such as 500ms or 20s',
    }),
  }

  async run(): Promise<{ id: number; state: string }> {
    const { args, flags } = await this.parse(Quiesce)
    const id = parseId(args.id)
    const limitMs = parseDurationMs(flags.timeout, '--timeout')
    await quiesce(id, limitMs)
    const { deviceInfo } = await import('ublk')
    const { state } = await deviceInfo(id)
    return { id, state }
  }
}
