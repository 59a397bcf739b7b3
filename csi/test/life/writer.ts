/** Writes numbered blocks, each on disk before the next, for as long as a volume is published; and reads them again. */

import { open, readFile } from 'node:fs/promises'

const BLOCK_BYTES = 4096

export class Writer {
  /** Blocks that fdatasync has acknowledged. */
  acknowledged = 0
  /** A write that failed: there must be none. */
  failure: Error | null = null
  #isStopping = false
  #ended: Promise<void> = Promise.resolve()

  start(path: string, seed: number): void {
    this.#ended = this.#write(path, seed).catch((error: Error) => {
      this.failure = error
    })
  }

  async stop(): Promise<void> {
    this.#isStopping = true
    await this.#ended
    if (this.failure !== null) throw this.failure
  }

  async #write(path: string, seed: number): Promise<void> {
    const file = await open(path, 'w')
    try {
      // A volume has room for so many; then the first are written again, the same.
      for (let n = 0; !this.#isStopping; n += 1) {
        await file.write(blockOf(seed, n % 2048), 0, BLOCK_BYTES, (n % 2048) * BLOCK_BYTES)
        await file.datasync()
        this.acknowledged = Math.min(2048, n + 1)
        await new Promise((resolve) => setTimeout(resolve, 10))
      }
    } finally {
      await file.close()
    }
  }
}

/** Throws unless the first `blocks` are what was written. */
export async function checkBlocks(path: string, seed: number, blocks: number): Promise<void> {
  const data = await readFile(path)
  for (let n = 0; n < blocks; n += 1) {
    if (!data.subarray(n * BLOCK_BYTES, (n + 1) * BLOCK_BYTES).equals(blockOf(seed, n)))
      throw new Error(`${path}: block ${n} of ${blocks} is lost`)
  }
}

function blockOf(seed: number, n: number): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES)
  for (let at = 0; at < BLOCK_BYTES; at += 8) {
    block.writeUInt32LE(seed, at)
    block.writeUInt32LE(n * 512 + at / 8, at + 4)
  }
  return block
}
