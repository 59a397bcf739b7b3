import * as Args from '@oclif/core/args'
import { BaseCommand, parseId } from '../lib/base-command.ts'
import type { DescribedDevice } from '../lib/describe.ts'
import { recover } from '../lib/hand-over.ts'
import { stopSignals } from '../lib/signals.ts'

export default class Recover extends BaseCommand {
  static override summary = 'Serve a device again whose server is gone.'
  static override description =
    `For devices made with --recovery, after their server has died or \`ublk quiesce\`. A new server takes over with what the \
record of the former one says (\`ublk info\` shows it); programs that have the device open or mounted go on. What was in memory (mem, \
or in a module) is lost with its server.

If it fails, the device goes on waiting: mend the cause and try again, or give it up with \`ublk del\`.`

  static override examples = [
    '<%= config.bin %> recover 0',
    {
      description: 'Whatever waits',
      command: `<%= config.bin %> list --json | jq '.devices[] | select(.state == "quiesced").id' | xargs -n 1 <%= config.bin %> recover`,
    },
  ]

  static override args = { id: Args.string({ required: true, description: 'number N of /dev/ublkbN, or its path' }) }

  async run(): Promise<DescribedDevice> {
    const { args } = await this.parse(Recover)
    const live = await recover(parseId(args.id), stopSignals().signal)
    this.log(live.path)
    return live
  }
}
