import { createReadStream, statSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { BlockRequest } from 'ublk'
import httpImage from '../../examples/http-image.ts'
import { digests, example, folder, mounted, serve, sh, writeFiles } from './support.ts'

const CHUNK_BYTES = 128 * 1024

interface ImageServer {
  url: string
  /** Start of every range that was asked for. */
  requested: number[]
  /** Answers before the real one, by request; null lets the real one through. */
  intercept: (request: IncomingMessage, start: number) => { status: number } | null
  etag: string
}

/** A plain web server with one image, as any of them behaves. */
async function serveImage(t: ExecutionContext, path: string): Promise<ImageServer> {
  const { size } = statSync(path)
  const state: ImageServer = { url: '', requested: [], intercept: () => null, etag: '"1"' }
  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')?.map(Number) ?? []
    if (start === undefined || end === undefined) {
      response.writeHead(200, { 'content-length': size })
      createReadStream(path).pipe(response)
      return
    }
    const instead = state.intercept(request, start)
    if (end > start) state.requested.push(start)
    if (instead !== null) {
      response.writeHead(instead.status).end('not now')
      return
    }
    response.writeHead(206, { 'content-range': `bytes ${start}-${end}/${size}`, 'content-length': end - start + 1, etag: state.etag })
    createReadStream(path, { start, end }).pipe(response)
  }
  const server = createServer(answer)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  state.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/disk.img`
  return state
}

/** An ext4 image with files in it, and their digests. */
async function makeImage(t: ExecutionContext): Promise<{ path: string; files: string }> {
  const content = folder(t)
  await writeFiles(content)
  const path = join(folder(t), 'disk.img')
  await sh(`truncate -s 16M ${path} && mkfs.ext4 -q -d ${content} ${path}`)
  return { path, files: await digests(content) }
}

test.serial('http-image.ts mounts an ext4 image from a web server, read-only', async (t) => {
  const { path, files } = await makeImage(t)
  const { url } = await serveImage(t, path)
  const device = await serve(t, { backend: example('http-image.ts'), backendOptions: { url } })
  t.is(device.size, 16 * 2 ** 20)
  t.true((await device.info()).readOnly)
  t.is(await mounted(t, device, digests), files)
  await sh(`cmp ${path} ${device.path}`)
})

test.serial('http-image.ts tries again what fails on the way', async (t) => {
  const { path, files } = await makeImage(t)
  const server = await serveImage(t, path)
  const seen = new Set<number>()
  server.intercept = (_, start) => {
    const isFirst = !seen.has(start)
    seen.add(start)
    return isFirst ? { status: 503 } : null
  }
  const device = await serve(t, { backend: example('http-image.ts'), backendOptions: { url: server.url } })
  t.is(await mounted(t, device, digests), files)
  t.true(seen.size > 5)
})

const read = async (backend: Awaited<ReturnType<typeof httpImage>>, offset: number, length: number): Promise<Buffer> => {
  const buf = Buffer.alloc(length)
  await backend.read(buf, offset, {} as BlockRequest)
  return buf
}

test.serial('http-image.ts asks once for a piece that many wait for, and keeps no more than its cache holds', async (t) => {
  const { path } = await makeImage(t)
  const server = await serveImage(t, path)
  const backend = await httpImage({ url: server.url, cache: 4 * CHUNK_BYTES })

  const all = await Promise.all(Array.from({ length: 20 }, (_, index) => read(backend, index * 4096, 4096)))
  t.deepEqual(server.requested, [0])
  t.is(Buffer.concat(all).compare(await read(backend, 0, 20 * 4096)), 0)
  t.deepEqual(server.requested, [0], 'from the cache')

  for (let index = 1; index <= 4; index++) await read(backend, index * CHUNK_BYTES, 512)
  t.is(server.requested.length, 5)
  await read(backend, 2 * CHUNK_BYTES, 512)
  t.is(server.requested.length, 5, 'still there')
  await read(backend, 0, 512)
  t.is(server.requested.length, 6, 'the one used least recently had to go')

  const across = await read(backend, 7 * CHUNK_BYTES - 512, CHUNK_BYTES + 1024)
  const wanted = createReadStream(path, { start: 7 * CHUNK_BYTES - 512, end: 8 * CHUNK_BYTES + 511 })
  t.is(across.compare(Buffer.concat(await wanted.toArray())), 0, 'a read over three pieces')
})

test.serial('http-image.ts answers an error when the server refuses or the image changes, and recovers', async (t) => {
  const { path } = await makeImage(t)
  const server = await serveImage(t, path)
  const device = await serve(t, { backend: example('http-image.ts'), backendOptions: { url: server.url } }, { mayFail: true })
  const readAt = (mebibyte: number): Promise<string> =>
    sh(`dd if=${device.path} of=/dev/null bs=4k count=1 skip=${mebibyte * 256} iflag=direct`)

  server.intercept = () => ({ status: 403 })
  await t.throwsAsync(readAt(10), { message: /Input\/output error/ })
  server.intercept = () => null
  await t.notThrowsAsync(readAt(10))
  server.etag = '"2"'
  await t.throwsAsync(readAt(14), { message: /Input\/output error/ })
})

test.serial('http-image.ts refuses a server without range requests', async (t) => {
  const { path } = await makeImage(t)
  const server = await serveImage(t, path)
  server.intercept = () => ({ status: 200 })
  await t.throwsAsync(httpImage({ url: server.url }), { message: /answered 200 to a range request/ })
})
