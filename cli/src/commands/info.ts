import * as Args from '@oclif/core/args'
import { BaseCommand, parseId } from '../lib/base-command.ts'
import { pairs } from '../lib/columns.ts'
import { type DescribedDevice, toDescribed } from '../lib/describe.ts'
import { isRunning } from '../lib/process.ts'
import { StateDirectory } from '../lib/state.ts'
import { formatTarget } from '../lib/target.ts'
import { formatBytes } from '../lib/units.ts'

export default class Info extends BaseCommand {
  static override summary = 'Show all about one device, or about every device.'
  static override examples = ['<%= config.bin %> info 0', '<%= config.bin %> info /dev/ublkb0 --json']
  static override args = { id: Args.string({ description: 'number N of /dev/ublkbN, or its path; without it, all devices' }) }

  async run(): Promise<DescribedDevice | { devices: DescribedDevice[] }> {
    const { args } = await this.parse(Info)
    const { deviceInfo, listDevices } = await import('ublk')
    const directory = StateDirectory.forUser()
    const infos = args.id === undefined ? await listDevices() : [await deviceInfo(parseId(args.id))]
    const devices = infos.map((info) => {
      const state = directory.read(info.id)
      return toDescribed(info, state, state !== null && isRunning(state), directory)
    })
    this.log(devices.map((device) => pairs(lines(device))).join('\n\n') || 'no ublk devices')
    const [first] = devices
    return args.id !== undefined && first !== undefined ? first : { devices }
  }
}

function lines(device: DescribedDevice): [string, string][] {
  const { target, server } = device
  const yes = (value: boolean): string => (value ? 'yes' : 'no')
  return [
    ['device', String(device.id)],
    ['path', device.path],
    ['char device', device.charPath],
    ['state', device.state],
    ['size', `${formatBytes(device.size)} (${device.size} bytes)`],
    ['logical block', String(device.logicalBlockSize)],
    ['physical block', String(device.physicalBlockSize)],
    ['data path', device.dataPath],
    ['queues', String(device.queues)],
    ['depth', String(device.depth)],
    ['longest request', formatBytes(device.maxIoBytes)],
    ['read-only', yes(device.readOnly)],
    ['rotational', yes(device.rotational)],
    ['write cache', yes(device.volatileCache)],
    ['FUA', yes(device.fua)],
    ['discard', yes(device.discard)],
    ['memory alignment', String(device.dmaAlignment)],
    ['segments', segments(device)],
    ['owner', `${device.ownerUid}:${device.ownerGid}`],
    ['flags', device.flags.join(' ')],
    ['pid', device.pid > 0 ? String(device.pid) : '-'],
    ['target', target === null ? '- (not made by this program)' : formatTarget(target)],
    ...(server === null ? [] : serverLines(server)),
  ]
}

function segments({ maxSegments, maxSegmentSize, segmentBoundary }: DescribedDevice): string {
  return `at most ${maxSegments} of ${maxSegmentSize} bytes, within ${formatBytes(segmentBoundary)}`
}

function serverLines(server: NonNullable<DescribedDevice['server']>): [string, string][] {
  return [
    ['server', `${server.pid}${server.running ? '' : ' (gone)'}, version ${server.version}, since ${server.startedAt}`],
    ['socket', server.socket],
    ['recovery', server.recovery],
  ]
}
