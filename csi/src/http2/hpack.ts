/**
 * HPACK (RFC 7541), as much as it takes to read the header fields that a client sends, and to write them again without compression.
 */

export interface HeaderField {
  name: string
  /** Octets of latin1, as header fields are. */
  value: string
}

/** Appendix A: names and values of indices 1 to 61. */
const STATIC_TABLE: HeaderField[] = (
  ':authority=|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|:status=204|:status=206|' +
  ':status=304|:status=400|:status=404|:status=500|accept-charset=|accept-encoding=gzip, deflate|accept-language=|accept-ranges=|' +
  'accept=|access-control-allow-origin=|age=|allow=|authorization=|cache-control=|content-disposition=|content-encoding=|' +
  'content-language=|content-length=|content-location=|content-range=|content-type=|cookie=|date=|etag=|expect=|expires=|from=|host=|' +
  'if-match=|if-modified-since=|if-none-match=|if-range=|if-unmodified-since=|last-modified=|link=|location=|max-forwards=|' +
  'proxy-authenticate=|proxy-authorization=|range=|referer=|refresh=|retry-after=|server=|set-cookie=|strict-transport-security=|' +
  'transfer-encoding=|user-agent=|vary=|via=|www-authenticate='
)
  .split('|')
  .map((entry) => {
    const at = entry.indexOf('=')
    return { name: entry.slice(0, at), value: entry.slice(at + 1) }
  })

/** Appendix B: bits of the code of each octet. The code is canonical, so the codes follow from these. */
// biome-ignore format: one row for sixteen octets
const CODE_BITS = [
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
  28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
  6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
  5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
  13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
  7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
  15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
  6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
  20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
  24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
  22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
  21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
  26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
  19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
  20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
  26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
]

const MAX_CODE_BITS = 30
/** Octet by `bits * 2^30 + code`; the longest code has 30 bits. */
const OCTETS: ReadonlyMap<number, number> = canonicalCodes()

function canonicalCodes(): Map<number, number> {
  const codes = new Map<number, number>()
  const order = [...CODE_BITS.keys()].sort((a, b) => CODE_BITS[a]! - CODE_BITS[b]! || a - b)
  let code = 0
  let bits = CODE_BITS[order[0]!]!
  for (const octet of order) {
    code *= 2 ** (CODE_BITS[octet]! - bits)
    bits = CODE_BITS[octet]!
    codes.set(bits * 2 ** MAX_CODE_BITS + code, octet)
    code += 1
  }
  return codes
}

/** Default of SETTINGS_HEADER_TABLE_SIZE, which the server leaves as it is. */
const TABLE_BYTES = 4096
/** What each entry counts beside its octets (4.1). */
const ENTRY_BYTES = 32

/** Reads header blocks of one connection, in the order they come. */
export class HpackDecoder {
  /** Newest first. */
  readonly #table: HeaderField[] = []
  #tableBytes = 0
  #limitBytes = TABLE_BYTES
  #block: Buffer = Buffer.alloc(0)
  #at = 0

  /** Throws for what no encoder makes. */
  decode(block: Buffer): HeaderField[] {
    this.#block = block
    this.#at = 0
    const fields: HeaderField[] = []
    while (this.#at < block.length) {
      const first = block[this.#at]!
      if (first & 0x80) fields.push(this.#entry(this.#integer(7)))
      else if (first & 0x40) fields.push(this.#remember(this.#literal(6)))
      else if (first & 0x20) this.#resize(this.#integer(5))
      else fields.push(this.#literal(4))
    }
    return fields
  }

  #entry(index: number): HeaderField {
    const field = index <= STATIC_TABLE.length ? STATIC_TABLE[index - 1] : this.#table[index - STATIC_TABLE.length - 1]
    if (field === undefined) throw new Error(`HPACK: no entry ${index}`)
    return field
  }

  #literal(prefixBits: number): HeaderField {
    const index = this.#integer(prefixBits)
    const name = index === 0 ? this.#string() : this.#entry(index).name
    return { name, value: this.#string() }
  }

  #remember(field: HeaderField): HeaderField {
    this.#table.unshift(field)
    this.#tableBytes += sizeOf(field)
    this.#evict()
    return field
  }

  #resize(bytes: number): void {
    if (bytes > TABLE_BYTES) throw new Error(`HPACK: a table of ${bytes} bytes was not offered`)
    this.#limitBytes = bytes
    this.#evict()
  }

  #evict(): void {
    while (this.#tableBytes > this.#limitBytes) this.#tableBytes -= sizeOf(this.#table.pop()!)
  }

  /** 5.1: what does not fit the prefix follows in groups of seven bits. */
  #integer(prefixBits: number): number {
    const mask = 2 ** prefixBits - 1
    let value = this.#octet() & mask
    if (value < mask) return value
    for (let shift = 0; ; shift += 7) {
      if (shift > 28) throw new Error('HPACK: an integer is too long')
      const octet = this.#octet()
      value += (octet & 0x7f) * 2 ** shift
      if (octet < 0x80) return value
    }
  }

  #string(): string {
    const isHuffman = (this.#block[this.#at] ?? 0) >= 0x80
    const length = this.#integer(7)
    if (this.#at + length > this.#block.length) throw new Error('HPACK: a string is cut off')
    const octets = this.#block.subarray(this.#at, this.#at + length)
    this.#at += length
    return isHuffman ? decodeHuffman(octets) : octets.toString('latin1')
  }

  #octet(): number {
    const octet = this.#block[this.#at]
    if (octet === undefined) throw new Error('HPACK: a block is cut off')
    this.#at += 1
    return octet
  }
}

const sizeOf = ({ name, value }: HeaderField): number => name.length + value.length + ENTRY_BYTES

function decodeHuffman(octets: Buffer): string {
  const text: number[] = []
  let code = 0
  let bits = 0
  for (const octet of octets) {
    for (let mask = 0x80; mask > 0; mask >>= 1) {
      code = code * 2 + (octet & mask ? 1 : 0)
      bits += 1
      const decoded = OCTETS.get(bits * 2 ** MAX_CODE_BITS + code)
      if (decoded !== undefined) {
        text.push(decoded)
        code = 0
        bits = 0
      } else if (bits > MAX_CODE_BITS) throw new Error('HPACK: no such Huffman code')
    }
  }
  // The rest is padding: ones, less than an octet.
  if (bits > 7 || code !== 2 ** bits - 1) throw new Error('HPACK: bad padding')
  return Buffer.from(text).toString('latin1')
}

/** Each field as a literal that the reader does not remember (6.2.2), without Huffman codes: it reads the same whatever came before. */
export function encodeHeaders(fields: HeaderField[]): Buffer {
  return Buffer.concat(fields.flatMap(({ name, value }) => [Buffer.from([0]), encodeString(name), encodeString(value)]))
}

function encodeString(text: string): Buffer {
  return Buffer.concat([encodeLength(text.length), Buffer.from(text, 'latin1')])
}

function encodeLength(length: number): Buffer {
  if (length < 0x7f) return Buffer.from([length])
  const octets = [0x7f]
  let rest = length - 0x7f
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) octets.push((rest % 0x80) + 0x80)
  return Buffer.from([...octets, rest])
}
