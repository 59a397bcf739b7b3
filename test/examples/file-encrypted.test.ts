import { randomBytes } from 'node:crypto'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { createDevice } from 'ublk'
import fileEncrypted from '../../examples/file-encrypted.ts'
import { digests, example, folder, keepsFiles, mounted, serve, sh } from './support.ts'

const MARKER = 'nobody shall find this sentence in the backing file. '

test.serial('file-encrypted.ts keeps a file system, also after it is opened again, and nothing can be read in the file', async (t) => {
  const path = join(folder(t), 'disk.enc')
  const keyFile = join(folder(t), 'key')
  writeFileSync(keyFile, randomBytes(64))
  const backend = example('file-encrypted.ts')

  const first = await serve(t, { backend, backendOptions: { path, keyFile, size: '48MiB' } })
  const written = await keepsFiles(t, first)
  await mounted(t, first, (path) => sh(`yes '${MARKER}' | head -n 10000 >${path}/marker`))
  await first.close()

  t.is(statSync(path).size, 4096 + 48 * 2 ** 20)
  const stored = readFileSync(path)
  t.false(stored.includes(MARKER))
  t.false(stored.includes('file-4096'), 'the names of files are encrypted too')

  const second = await serve(t, { backend, backendOptions: { path, keyFile } })
  t.is(second.size, 48 * 2 ** 20)
  t.is(await mounted(t, second, digests), written)
  await second.close()

  const wrongKeyFile = join(folder(t), 'wrong-key')
  writeFileSync(wrongKeyFile, randomBytes(64))
  await t.throwsAsync(createDevice({ backend, backendOptions: { path, keyFile: wrongKeyFile } }), {
    code: 'ERR_UBLK_BACKEND',
    message: /the key does not fit .*disk\.enc/,
  })
})

test.serial('file-encrypted.ts opens with the passphrase it was made with, and with no other', async (t) => {
  const path = join(folder(t), 'disk.enc')
  const passphraseFile = join(folder(t), 'passphrase')
  writeFileSync(passphraseFile, 'correct horse battery staple\n')
  const first = await serve(t, { backend: fileEncrypted({ path, passphraseFile, size: '1MiB' }) })
  await sh(`yes | dd of=${first.path} bs=64k count=16 iflag=fullblock oflag=direct conv=fsync status=none`)
  await first.close()

  writeFileSync(passphraseFile, 'correct horse battery staple')
  const second = await serve(t, { backend: fileEncrypted({ path, passphraseFile }) })
  t.is(await sh(`yes | head -c 1M | cmp - ${second.path} && echo same`), 'same\n')
  await second.close()

  writeFileSync(passphraseFile, 'incorrect horse')
  t.throws(() => fileEncrypted({ path, passphraseFile }), { message: /the key does not fit/ })
})

test.serial('file-encrypted.ts gives the same data another look in each sector', async (t) => {
  const path = join(folder(t), 'disk.enc')
  const keyFile = join(folder(t), 'key')
  writeFileSync(keyFile, randomBytes(64))
  const device = await serve(t, { backend: example('file-encrypted.ts'), backendOptions: { path, keyFile, size: '1MiB' } })
  await sh(`yes | dd of=${device.path} bs=64k count=16 iflag=fullblock oflag=direct status=none`)
  const stored = readFileSync(path).subarray(4096)
  const sectors = Array.from({ length: 256 }, (_, index) => stored.toString('latin1', index * 4096, index * 4096 + 4096))
  t.is(new Set(sectors).size, 256)
})

test.serial('file-encrypted.ts refuses a file that is none of its own, and a short key', async (t) => {
  const path = join(folder(t), 'disk.enc')
  const keyFile = join(folder(t), 'key')
  writeFileSync(keyFile, 'short')
  t.throws(() => fileEncrypted({ path, keyFile, size: '1MiB' }), { message: /must have at least 32 bytes, it has 5/ })
  writeFileSync(path, 'something else')
  t.throws(() => fileEncrypted({ path, keyFile }), { message: /is not an encrypted disk/ })
})
