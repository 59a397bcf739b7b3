/**
 * The `Buffer` that handlers get: a view of shared memory whose bulk copies are as fast as those of private memory.
 *
 * Thread: any. Before Node.js 26, V8 copies out of shared memory in small atomic steps: a native memmove is up to four times faster. Into
 * shared memory `Buffer#copy` is a memmove everywhere, where `set` and `fill` are not.
 */
import type { NativeBinding } from './native.ts'

export type CopyFunction = NativeBinding['copy']

/** Makes the views of one binding; they are Buffers in every other way. */
export type SharedViewClass = new (memory: SharedArrayBuffer, byteOffset: number, length: number) => Buffer

/** From this length on a native call costs less than it saves. */
const NATIVE_COPY_MIN_BYTES: number = Number.parseInt(process.versions.node, 10) < 26 ? 4096 : Number.POSITIVE_INFINITY

/** Source of zeros. Never written, so its pages cost nothing. */
const ZEROS: Uint8Array = new Uint8Array(64 * 1024)

const { copy: bufferCopy, fill: bufferFill, subarray: bufferSubarray } = Buffer.prototype

/** Fills `view` with zeros. */
export function zero(view: Uint8Array): void {
  for (let done = 0; done < view.length; done += ZEROS.length) {
    bufferCopy.call(ZEROS, view, done)
  }
}

/** The class of views that copy by `copy`. Arguments that are not plain and in range go to Buffer's own method, which knows what to say. */
export function sharedViewClass(copy: CopyFunction): SharedViewClass {
  class SharedView extends Uint8Array<ArrayBufferLike> {
    copy(target: Uint8Array, targetStart = 0, sourceStart = 0, sourceEnd: number = this.length): number {
      if (this.length >= NATIVE_COPY_MIN_BYTES && target instanceof Uint8Array && areIndexes(targetStart, sourceStart, sourceEnd)) {
        const length = Math.min(sourceEnd, this.length) - sourceStart
        const fitting = Math.min(length, target.length - targetStart)
        if (fitting >= NATIVE_COPY_MIN_BYTES) {
          copy(target, targetStart, this, sourceStart, fitting)
          return fitting
        }
      }
      return bufferCopy.call(this, target, targetStart, sourceStart, sourceEnd)
    }

    override set(source: ArrayLike<number>, offset = 0): void {
      // What does not fit is an error of `set`, and only a part of the copy.
      if (source instanceof Uint8Array && areIndexes(offset, 0, 0) && source.length <= this.length - offset) {
        bufferCopy.call(source, this, offset)
      } else {
        super.set(source, offset)
      }
    }

    override subarray(start?: number, end?: number): SharedView {
      const part = bufferSubarray.call(this, start, end)
      return new SharedView(part.buffer, part.byteOffset, part.length)
    }
  }
  const fill = function (this: Buffer, value: Parameters<Buffer['fill']>[0], ...rest: never[]): Buffer {
    if (value !== 0 || rest.length > 0) return bufferFill.call(this, value, ...rest)
    zero(this)
    return this
  }
  Object.defineProperty(SharedView.prototype, 'fill', { value: fill, writable: true, configurable: true })
  // A Buffer in every respect (instanceof, Buffer.isBuffer, readUInt32LE …), constructed as a typed array.
  Object.setPrototypeOf(SharedView.prototype, Buffer.prototype)
  return SharedView as unknown as SharedViewClass
}

function areIndexes(a: number, b: number, c: number): boolean {
  return Number.isInteger(a) && Number.isInteger(b) && Number.isInteger(c) && a >= 0 && b >= 0 && c >= 0
}
