/** Pools for tests in the VM: directories on file systems of their own. */

import { execFileSync } from 'node:child_process'
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs'

export const sh = (program: string, ...args: string[]): string =>
  execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

/** A pool on xfs, which has reflinks; on a loop device over a sparse file in memory. */
export function makeXfsPool(directory: string, megabytes = 2000): { path: string; remove: () => void } {
  mkdirSync(directory, { recursive: true })
  const image = `${directory}.img`
  writeFileSync(image, '')
  truncateSync(image, megabytes * 1024 * 1024)
  sh('mkfs.xfs', '-q', image)
  sh('mount', '-o', 'loop', image, directory)
  return { path: directory, remove: () => void sh('umount', directory) }
}
