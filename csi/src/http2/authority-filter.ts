/**
 * Gives every request the authority `localhost` before Node's HTTP/2 sees it.
 *
 * Clients that dial a Unix socket have put all kinds of text there: the path of the socket, or nothing. Node's HTTP/2 refuses what is no
 * authority with PROTOCOL_ERROR, before any code of ours runs; and on a Unix socket nobody needs it.
 */
import { Transform, type TransformCallback } from 'node:stream'
import { encodeHeaders, HpackDecoder } from './hpack.ts'

const PREFACE_BYTES = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'.length
const FRAME_HEAD_BYTES = 9
const HEADERS = 1
const CONTINUATION = 9
const END_HEADERS = 0x4
const PADDED = 0x8
const PRIORITY = 0x20
/** Default of SETTINGS_MAX_FRAME_SIZE. */
const MAX_FRAME_BYTES = 16_384
/** A header block that is longer is no CSI call's. */
const MAX_BLOCK_BYTES = 65_536

export class AuthorityFilter extends Transform {
  readonly #decoder = new HpackDecoder()
  #rest: Buffer = Buffer.alloc(0)
  #isPrefaceSeen = false
  /** A block that goes on in further frames. */
  #open: { stream: number; flags: number; parts: Buffer[] } | null = null

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    try {
      this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
      this.#passPreface()
      while (this.#isPrefaceSeen && this.#passFrame()) {}
      done()
    } catch (error) {
      done(error as Error)
    }
  }

  #passPreface(): void {
    if (this.#isPrefaceSeen || this.#rest.length < PREFACE_BYTES) return
    this.#isPrefaceSeen = true
    this.push(this.#take(PREFACE_BYTES))
  }

  /** False when no whole frame is there. */
  #passFrame(): boolean {
    if (this.#rest.length < FRAME_HEAD_BYTES) return false
    const length = this.#rest.readUIntBE(0, 3)
    if (length > MAX_FRAME_BYTES) throw new Error(`HTTP/2: a frame of ${length} bytes was not offered`)
    if (this.#rest.length < FRAME_HEAD_BYTES + length) return false
    const frame = this.#take(FRAME_HEAD_BYTES + length)
    const type = frame[3]
    if (type !== HEADERS && type !== CONTINUATION) this.push(frame)
    else this.#collect(type, frame[4]!, frame.readUInt32BE(5) & 0x7fffffff, frame.subarray(FRAME_HEAD_BYTES))
    return true
  }

  #collect(type: number, flags: number, stream: number, payload: Buffer): void {
    if (type === HEADERS) this.#open = { stream, flags, parts: [fragmentOf(payload, flags)] }
    else if (this.#open?.stream !== stream) throw new Error('HTTP/2: a CONTINUATION without its HEADERS')
    else this.#open.parts.push(payload)
    const { parts, flags: firstFlags } = this.#open
    if (parts.reduce((sum, { length }) => sum + length, 0) > MAX_BLOCK_BYTES) throw new Error('HTTP/2: the header block is too long')
    if (!(flags & END_HEADERS)) return
    this.#open = null
    const fields = this.#decoder
      .decode(Buffer.concat(parts))
      .map((field) => (field.name === ':authority' ? { ...field, value: 'localhost' } : field))
    this.#pushHeaders(stream, firstFlags & ~(PADDED | PRIORITY | END_HEADERS), encodeHeaders(fields))
  }

  #pushHeaders(stream: number, flags: number, block: Buffer): void {
    for (let at = 0; at === 0 || at < block.length; at += MAX_FRAME_BYTES) {
      const part = block.subarray(at, at + MAX_FRAME_BYTES)
      const isLast = at + MAX_FRAME_BYTES >= block.length
      const head = Buffer.alloc(FRAME_HEAD_BYTES)
      head.writeUIntBE(part.length, 0, 3)
      head[3] = at === 0 ? HEADERS : CONTINUATION
      head[4] = (at === 0 ? flags : 0) | (isLast ? END_HEADERS : 0)
      head.writeUInt32BE(stream, 5)
      this.push(Buffer.concat([head, part]))
    }
  }

  #take(bytes: number): Buffer {
    const taken = this.#rest.subarray(0, bytes)
    this.#rest = this.#rest.subarray(bytes)
    return taken
  }
}

/** The header block within a HEADERS frame: without padding and priority. */
function fragmentOf(payload: Buffer, flags: number): Buffer {
  const padding = flags & PADDED ? (payload[0] ?? 0) : 0
  const begin = (flags & PADDED ? 1 : 0) + (flags & PRIORITY ? 5 : 0)
  if (begin + padding > payload.length) throw new Error('HTTP/2: more padding than frame')
  return payload.subarray(begin, payload.length - padding)
}
