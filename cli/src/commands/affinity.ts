import * as Args from '@oclif/core/args'
import { BaseCommand, parseId } from '../lib/base-command.ts'
import { columns } from '../lib/columns.ts'

interface QueueAffinity {
  queue: number
  cpus: number[]
}

export default class Affinity extends BaseCommand {
  static override summary = 'Show from which CPUs the requests of each queue come.'
  static override description =
    `The kernel deals the CPUs of the machine out to the queues of a device when it is made; the server runs the thread \
of a queue on them.`

  static override examples = [
    '<%= config.bin %> affinity 0',
    { description: 'CPUs of queue 1', command: `<%= config.bin %> affinity 0 --json | jq '.queues[1].cpus'` },
  ]

  static override args = { id: Args.string({ required: true, description: 'number N of /dev/ublkbN, or its path' }) }

  async run(): Promise<{ id: number; queues: QueueAffinity[] }> {
    const { args } = await this.parse(Affinity)
    const id = parseId(args.id)
    const { deviceInfo, queueAffinity } = await import('ublk')
    const { queues: count } = await deviceInfo(id)
    const queues = await Promise.all(Array.from({ length: count }, async (_, queue) => ({ queue, cpus: await queueAffinity(id, queue) })))
    const rows = queues.map(({ queue, cpus }) => [String(queue), cpus.join(' ')])
    this.log(columns(['QUEUE', 'CPUS'], rows))
    return { id, queues }
  }
}
