import { BaseCommand } from '../lib/base-command.ts'
import { columns } from '../lib/columns.ts'
import { type ListedDevice, toListed } from '../lib/describe.ts'
import { StateDirectory } from '../lib/state.ts'
import { formatTarget } from '../lib/target.ts'
import { formatBytes } from '../lib/units.ts'

export default class List extends BaseCommand {
  static override summary = 'List the ublk devices of this machine.'
  static override description = `Devices of other programs are listed too; their TARGET is not known. \
STATE is live; dead (not served: stopped, or its server is gone); quiesced or fail_io (its server died and recovery was asked for).`

  static override examples = [
    '<%= config.bin %> list',
    {
      description: 'Paths of the live ones',
      command: `<%= config.bin %> list --json | jq -r '.devices[] | select(.state == "live").path'`,
    },
  ]

  async run(): Promise<{ devices: ListedDevice[] }> {
    await this.parse(List)
    const { listDevices } = await import('ublk')
    const directory = StateDirectory.forUser()
    const devices = (await listDevices()).map((info) => toListed(info, directory.read(info.id)))
    this.log(columns(['ID', 'PATH', 'STATE', 'SIZE', 'QUEUES', 'DEPTH', 'PID', 'TARGET'], devices.map(row)))
    return { devices }
  }
}

function row({ id, path, state, size, queues, depth, pid, target }: ListedDevice): string[] {
  const owner = pid > 0 ? String(pid) : '-'
  return [String(id), path, state, formatBytes(size), String(queues), String(depth), owner, target === null ? '-' : formatTarget(target)]
}
