import * as Args from '@oclif/core/args'
import { BaseCommand, parseId } from '../lib/base-command.ts'
import { resize } from '../lib/hand-over.ts'

export default class Resize extends BaseCommand {
  static override summary = 'Change the size of a device that is in use.'
  static override description =
    `Whoever has the device open sees the new size at once; a file system is then grown with its own tool, such as resize2fs, \
and must be shrunk with it before. Needs Linux 6.16.

A file must be as large already (truncate -s), unless the device was made with --create: then it grows along. It never becomes shorter. \
A mem device shrinks, and grows back to the size it was made with; a null device has any size. A module says itself how large it is, and \
cannot be resized from here. For a device of another program the kernel alone is told.`

  static override examples = [
    '<%= config.bin %> resize 0 20G',
    {
      description: 'An image file and the ext4 on it',
      command: 'truncate -s 20G disk.img && <%= config.bin %> resize 0 20G && resize2fs /dev/ublkb0',
    },
  ]

  static override args = {
    id: Args.string({ required: true, description: 'number N of /dev/ublkbN, or its path' }),
    size: Args.string({ required: true, description: 'bytes, or a number with a unit such as 512M or 20G' }),
  }

  async run(): Promise<{ id: number; size: number }> {
    const { args } = await this.parse(Resize)
    const id = parseId(args.id)
    await resize(id, args.size)
    const { deviceInfo } = await import('ublk')
    const { size } = await deviceInfo(id)
    return { id, size }
  }
}
