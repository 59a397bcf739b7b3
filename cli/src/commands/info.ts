import * as Args from '@oclif/core/args'
import type { DeviceIntegrity, DeviceZones } from 'ublk'
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
    ['path', numbered(device.path, device.blockNumber)],
    ['char device', numbered(device.charPath, device.charNumber)],
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
    ['write zeroes', yes(device.writeZeroes)],
    ['memory alignment', String(device.dmaAlignment)],
    ['segments', segments(device)],
    ...(device.zones === null ? [] : [['zones', zones(device.zones, device.size)] satisfies [string, string]]),
    ...(device.integrity === null ? [] : [['integrity', integrity(device.integrity)] satisfies [string, string]]),
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

function numbered(path: string, number: string | null): string {
  return number === null ? path : `${path} (${number})`
}

function zones({ size, maxOpen, maxActive, maxAppendBytes }: DeviceZones, deviceSize: number): string {
  const limit = (value: number): string => (value === 0 ? 'any number' : String(value))
  const counts = `${limit(maxOpen)} open, ${limit(maxActive)} open or closed`
  return `${deviceSize / size} of ${formatBytes(size)}; ${counts}; appends up to ${formatBytes(maxAppendBytes)}`
}

/** In the words of --integrity. */
function integrity({ size, csum, piOffset, tagSize, reftag, capable }: DeviceIntegrity): string {
  const words = [`size=${size}`, csum !== null && `csum=${csum}`, piOffset > 0 && `pi-offset=${piOffset}`]
  const rest = [tagSize > 0 && `tag-size=${tagSize}`, reftag && 'reftag', capable && 'capable']
  return [...words, ...rest].filter((word) => word !== false).join(',')
}

function serverLines(server: NonNullable<DescribedDevice['server']>): [string, string][] {
  return [
    ['server', `${server.pid}${server.running ? '' : ' (gone)'}, version ${server.version}, since ${server.startedAt}`],
    ['socket', server.socket],
    ['recovery', server.recovery],
  ]
}
