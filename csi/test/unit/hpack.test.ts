import test from 'ava'
import { encodeHeaders, HpackDecoder } from '../../src/http2/hpack.ts'

test('the examples of RFC 7541, C.4, are read, the table that they build included', (t) => {
  const decoder = new HpackDecoder()
  const read = (hex: string): string => {
    const fields = decoder.decode(Buffer.from(hex, 'hex'))
    return fields.map(({ name, value }) => `${name}=${value}`).join(' ')
  }
  t.is(read('828684418cf1e3c2e5f23a6ba0ab90f4ff'), ':method=GET :scheme=http :path=/ :authority=www.example.com')
  t.is(read('828684be5886a8eb10649cbf'), ':method=GET :scheme=http :path=/ :authority=www.example.com cache-control=no-cache')
  t.is(
    read('828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf'),
    ':method=GET :scheme=https :path=/index.html :authority=www.example.com custom-key=custom-value',
  )
})

test('what is written is read again, by a reader that knows nothing', (t) => {
  const fields = [
    { name: ':authority', value: 'localhost' },
    { name: 'x-empty', value: '' },
    { name: 'x-long', value: 'é'.repeat(5000) },
    { name: 'y'.repeat(127), value: 'z'.repeat(128) },
  ]
  t.deepEqual(new HpackDecoder().decode(encodeHeaders(fields)), fields)
})

test('what fell out of the table, or is cut off, is an error', (t) => {
  const literal = (value: string): Buffer =>
    Buffer.concat([Buffer.from([0x40, 1, 0x61, 0x7f, ((value.length - 127) % 128) | 0x80, (value.length - 127) >> 7]), Buffer.from(value)])
  const decoder = new HpackDecoder()
  decoder.decode(literal('1'.repeat(3000)))
  t.is(decoder.decode(Buffer.from([0xbe]))[0]?.value.length, 3000)
  decoder.decode(literal('2'.repeat(2000)))
  t.is(decoder.decode(Buffer.from([0xbe]))[0]?.value.length, 2000)
  t.throws(() => decoder.decode(Buffer.from([0xbf])), { message: /no entry 63/ })
  for (const hex of ['41', '418cf1e3', '40', 'ff', '3fffffffffff', '4181ff00'])
    t.throws(() => new HpackDecoder().decode(Buffer.from(hex, 'hex')), undefined, hex)
})
