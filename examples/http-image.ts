/**
 * A read-only device over a disk image on a web server, fetched in pieces as they are read.
 *
 *     ublk add ./examples/http-image.ts --set url=http://127.0.0.1:8000/disk.img --set cache=64MiB
 *
 * Any server that answers range requests will do. Pieces are kept in a cache of bounded size; requests for a piece that is on
 * its way wait for it together; what fails on the way is tried again. An image that changes on the server becomes an I/O error.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { type Backend, parseSize, type Size } from 'ublk'

const CHUNK_BYTES = 128 * 1024
const SECTOR_BYTES = 512
/** Together less than the 20 s that a request has: 4 × 4 s and 0.7 s of waiting in between. */
const ATTEMPTS = 4
const ATTEMPT_LIMIT_MS = 4000
const FIRST_WAIT_MS = 100

export interface HttpImageOptions {
  /** http: or https: address of the image. */
  url: string
  /** Most memory for pieces; default 64 MiB. */
  cache?: Size
}

export default async function httpImage({ url, cache = '64MiB' }: HttpImageOptions): Promise<Backend> {
  const image = await Image.find(url)
  const chunks = new ChunkCache(image, Math.max(1, Math.floor(parseSize(cache, 'cache') / CHUNK_BYTES)))
  return {
    size: image.sizeBytes,
    async read(buf, offset) {
      const end = offset + buf.length
      const first = Math.floor(offset / CHUNK_BYTES)
      const count = Math.ceil(end / CHUNK_BYTES) - first
      const parts = await Promise.all(Array.from({ length: count }, (_, index) => chunks.get(first + index)))
      for (const [index, part] of parts.entries()) {
        const start = (first + index) * CHUNK_BYTES
        part.copy(buf, Math.max(0, start - offset), Math.max(0, offset - start), Math.min(part.length, end - start))
      }
    },
  }
}

/** Pieces by their number, the least recently used first: a Map keeps the order of insertion. */
class ChunkCache {
  readonly #image: Image
  readonly #capacity: number
  readonly #chunks = new Map<number, Promise<Buffer>>()

  constructor(image: Image, capacity: number) {
    this.#image = image
    this.#capacity = capacity
  }

  get(index: number): Promise<Buffer> {
    const chunk = this.#chunks.get(index) ?? this.#fetch(index)
    this.#chunks.delete(index)
    this.#chunks.set(index, chunk)
    const [oldest] = this.#chunks.keys()
    if (this.#chunks.size > this.#capacity) this.#chunks.delete(oldest as number)
    return chunk
  }

  #fetch(index: number): Promise<Buffer> {
    const start = index * CHUNK_BYTES
    const chunk = this.#image.fetch(start, Math.min(start + CHUNK_BYTES, this.#image.sizeBytes))
    // A failure is not kept: the next read tries again.
    chunk.catch(() => {
      if (this.#chunks.get(index) === chunk) this.#chunks.delete(index)
    })
    return chunk
  }
}

/** A failure that another attempt will not mend. */
class FinalError extends Error {}

class Image {
  readonly url: string
  readonly sizeBytes: number
  /** Tells whether the image is still the same; null if the server does not say. */
  readonly version: string | null

  private constructor(url: string, sizeBytes: number, version: string | null) {
    this.url = url
    this.sizeBytes = sizeBytes
    this.version = version
  }

  /** Asks for the first byte: shows size and version, and that the server answers ranges. */
  static async find(url: string): Promise<Image> {
    const { headers } = await persistently(() => fetchRange(url, 0, 1))
    const sizeBytes = Number(/\/(\d+)$/.exec(headers.get('content-range') ?? '')?.[1])
    if (!(sizeBytes > 0) || sizeBytes % SECTOR_BYTES !== 0) {
      throw new Error(`${url} must have a known size that is a multiple of ${SECTOR_BYTES} bytes, it has ${sizeBytes}`)
    }
    return new Image(url, sizeBytes, versionOf(headers))
  }

  /** Bytes `start` to `end`, without `end`. */
  async fetch(start: number, end: number): Promise<Buffer> {
    const { data } = await persistently(async () => {
      const answer = await fetchRange(this.url, start, end)
      if (versionOf(answer.headers) !== this.version) throw new FinalError(`${this.url} has changed`)
      return answer
    })
    return data
  }
}

async function fetchRange(url: string, start: number, end: number): Promise<{ headers: Headers; data: Buffer }> {
  const response = await fetch(url, {
    headers: { range: `bytes=${start}-${end - 1}`, 'accept-encoding': 'identity' },
    signal: AbortSignal.timeout(ATTEMPT_LIMIT_MS),
  })
  if (response.status !== 206) {
    await response.body?.cancel()
    const message = `${url} answered ${response.status} to a range request, not 206`
    throw response.status >= 500 || response.status === 429 ? new Error(message) : new FinalError(message)
  }
  const data = Buffer.from(await response.arrayBuffer())
  if (data.length !== end - start) throw new Error(`${url} sent ${data.length} of ${end - start} bytes`)
  return { headers: response.headers, data }
}

function versionOf(headers: Headers): string | null {
  return headers.get('etag') ?? headers.get('last-modified')
}

async function persistently<T>(attempt: () => Promise<T>): Promise<T> {
  for (let failed = 0; ; ) {
    try {
      return await attempt()
    } catch (error) {
      if (error instanceof FinalError || ++failed === ATTEMPTS) throw error
      await delay(FIRST_WAIT_MS * 2 ** (failed - 1))
    }
  }
}
