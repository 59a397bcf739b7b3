import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'

/** Number of the disk at a path, that no other disk has in this run of the kernel. */
export const diskseqOf = async (path: string): Promise<string> =>
  (await readFile(`/sys/class/block/${basename(path)}/diskseq`, 'utf8')).trim()
