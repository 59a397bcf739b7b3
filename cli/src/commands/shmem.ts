import { resolve } from 'node:path'
import * as Args from '@oclif/core/args'
import * as Flags from '@oclif/core/flags'
import { BaseCommand, parseId } from '../lib/base-command.ts'
import { columns } from '../lib/columns.ts'
import { askSharing, type Sharing } from '../lib/hand-over.ts'
import { formatBytes } from '../lib/units.ts'

export default class Shmem extends BaseCommand {
  static override summary = 'Show and change the memory that the users of a device share with its server.'
  static override description =
    `A program that maps one of these files, and reads and writes the device with O_DIRECT from there, needs no \
copy. A file is usually one of hugetlbfs: the pages of a request have to lie in one piece. It must be there, with its size, and stay so.

The device must have been made with --shmem or --data-path shmem, which needs Linux 7.1. Both changes wait until the requests that are open \
are answered. After --remove the server has let go of the file, and what is read and written from there is copied.

The server of the device has to map the file itself, so it is asked: a device of another program cannot be changed from here.`

  static override examples = [
    { description: 'What is shared', command: '<%= config.bin %> shmem 0' },
    { description: 'One file more', command: '<%= config.bin %> shmem 0 --add /dev/hugepages/client-2' },
    { description: 'One less', command: '<%= config.bin %> shmem 0 --remove /dev/hugepages/client-1' },
  ]

  static override args = { id: Args.string({ required: true, description: 'number N of /dev/ublkbN, or its path' }) }

  static override flags = {
    add: Flags.string({ helpValue: 'FILE', exclusive: ['remove'], summary: 'share this file too' }),
    'read-only': Flags.boolean({ dependsOn: ['add'], summary: 'map it for reading alone: it serves writes to the device' }),
    remove: Flags.string({ helpValue: 'FILE', summary: 'share this file no longer' }),
  }

  async run(): Promise<Sharing> {
    const { args, flags } = await this.parse(Shmem)
    const sharing = await change(parseId(args.id), flags)
    const rows = sharing.sharedMemory.map(({ path, size, readOnly }) => [path, formatBytes(size), readOnly ? 'read-only' : 'read-write'])
    this.log(rows.length === 0 ? 'no shared memory' : columns(['FILE', 'SIZE', 'ACCESS'], rows))
    return sharing
  }
}

interface Wish {
  add?: string | undefined
  'read-only'?: boolean | undefined
  remove?: string | undefined
}

function change(id: number, { add, 'read-only': readOnly, remove }: Wish): Promise<Sharing> {
  const file = (path: string): string => `path=${encodeURIComponent(resolve(path))}`
  if (add !== undefined) return askSharing(id, 'POST', `/share?${file(add)}${readOnly ? '&readOnly' : ''}`)
  if (remove !== undefined) return askSharing(id, 'POST', `/unshare?${file(remove)}`)
  return askSharing(id, 'GET', '/shmem')
}
