/**
 * Keeps the blocks in RAM: the smallest backend that a file system can live on.
 *
 *     ublk add ./examples/memory.ts --set size=256MiB
 */
import { type Backend, parseSize, type Size } from 'ublk'

export default function memory({ size = '64MiB' }: { size?: Size } = {}): Backend {
  const data = Buffer.alloc(parseSize(size))
  return {
    size: data.length,
    sync: true,
    // `copy` returns the bytes copied, and that is a handler's answer.
    read: (buf, offset) => data.copy(buf, 0, offset),
    write: (buf, offset) => buf.copy(data, offset),
    discard: (offset, length) => void data.fill(0, offset, offset + length),
    writeZeroes: (offset, length) => void data.fill(0, offset, offset + length),
  }
}
