import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'

/** The kernel counts sizes in these, whatever the disk's blocks are. */
const SECTOR_BYTES = 512

/** Bytes of a whole disk, as the kernel has it now. @param sysfs where it is mounted */
export async function sizeOfDisk(devicePath: string, sysfs = '/sys'): Promise<number> {
  return Number((await readFile(`${sysfs}/class/block/${basename(devicePath)}/size`, 'utf8')).trim()) * SECTOR_BYTES
}
