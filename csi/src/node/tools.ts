/**
 * What the node's part needs of the machine: programs and kernel modules.
 */
import { access, constants } from 'node:fs/promises'
import { join } from 'node:path'
import { failedPrecondition } from '../errors.ts'

const PROGRAMS = [
  'mount',
  'umount',
  'blkid',
  'blockdev',
  'dd',
  'mkfs.ext4',
  'e2fsck',
  'resize2fs',
  'mkfs.xfs',
  'xfs_growfs',
  'mkfs.btrfs',
  'btrfs',
]

export class Tools {
  readonly #programs: readonly string[]
  readonly #searchPath: string

  /** @param more programs that the attacher needs */
  constructor(more: readonly string[] = [], searchPath: string = process.env.PATH ?? '/usr/sbin:/usr/bin:/sbin:/bin') {
    this.#programs = [...PROGRAMS, ...more]
    this.#searchPath = searchPath
  }

  async probe(_signal: AbortSignal): Promise<void> {
    const found = await Promise.all(this.#programs.map((program) => this.#has(program)))
    const missing = this.#programs.filter((_, index) => !found[index])
    if (missing.length > 0) throw failedPrecondition(`programs are missing on this node: ${missing.join(', ')}; install them`)
  }

  async #has(program: string): Promise<boolean> {
    for (const directory of this.#searchPath.split(':')) {
      const isThere = await access(join(directory, program), constants.X_OK).then(
        () => true,
        () => false,
      )
      if (isThere) return true
    }
    return false
  }
}
