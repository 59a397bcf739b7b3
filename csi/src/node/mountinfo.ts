/**
 * The kernel's own table of mounts, /proc/self/mountinfo: what is mounted where, and of which device.
 */

export interface Mount {
  /** `major:minor` of the file system. btrfs has one of its own that is not the disk's. */
  device: string
  /** Path within the file system that is the root of this mount: "/" for a whole one. */
  root: string
  path: string
  /** Options of the mount point. */
  options: string[]
  filesystem: string
  source: string
  /** Options of the file system. */
  superOptions: string[]
}

/** @see proc_pid_mountinfo(5): fields up to a lone "-" vary in number. */
export function parseMountinfo(text: string): Mount[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const fields = line.split(' ')
      const [, , device = '', root = '', path = '', options = ''] = fields
      const [filesystem = '', source = '', superOptions = ''] = fields.slice(fields.indexOf('-', 6) + 1)
      return {
        device,
        root: unescaped(root),
        path: unescaped(path),
        options: options.split(','),
        filesystem,
        source: unescaped(source),
        superOptions: superOptions.split(','),
      }
    })
}

/** What ext4 says of itself since Linux 6.15, when it does not write any more; before, and other file systems: `ro`. */
const FAILED = new Set(['emergency_ro', 'shutdown'])

/** Whether a file system stopped writing by itself, after an error. */
export const hasFailed = ({ superOptions, options }: Mount): boolean =>
  superOptions.some((option) => FAILED.has(option)) || (superOptions.includes('ro') && !options.includes('ro'))

/** Space, tab, newline and backslash are octal in the table. */
const unescaped = (field: string): string =>
  field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))
