/**
 * Keeps the blocks in a file, each sector encrypted with AES-256-XTS under its own number, as disk encryption does.
 *
 *     head -c 64 /dev/urandom > disk.key
 *     ublk add ./examples/file-encrypted.ts --set path=$PWD/disk.enc --set keyFile=$PWD/disk.key --set size=1GiB
 *
 * Instead of `keyFile`, `passphraseFile` names a file with a passphrase. The file is made when it is missing; after that its
 * size is the device's. It begins with a header: 8 bytes magic, 16 salt, 32 check value; the rest of its 4096 bytes are zeros.
 *
 * Who has only the file learns which sectors change, and nothing of what is in them. XTS does not notice a sector that was
 * tampered with. Sectors never written read as noise. It works without promises, because what a disk waits for most is the page
 * cache: a worker is then faster, and needs none of the four threads that a process has for `fs.promises`.
 */
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes, scryptSync, timingSafeEqual } from 'node:crypto'
import {
  closeSync,
  existsSync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  writeSync,
} from 'node:fs'
import { type Backend, parseSize, type Size } from 'ublk'

const HEADER_BYTES = 4096
const SECTOR_BYTES = 4096
const MAGIC = Buffer.from('ublkxts1')
const SALT_BYTES = 16
/** Two AES-256 keys, as XTS wants them. */
const KEY_BYTES = 64
const CHECK_BYTES = 32
const MIN_SECRET_BYTES = 32

export interface EncryptedOptions {
  /** The encrypted file. */
  path: string
  /** File with at least 32 random bytes. */
  keyFile?: string
  /** File with a passphrase; a line break at its end does not count. */
  passphraseFile?: string
  /** Size of the device, for a file that is not there yet. */
  size?: Size
}

export default function fileEncrypted(options: EncryptedOptions): Backend {
  const { key, size } = existsSync(options.path) ? unlock(options) : create(options)
  let file: number
  return {
    size,
    blockSize: SECTOR_BYTES,
    sync: true,
    open() {
      file = openSync(options.path, 'r+')
    },
    close() {
      closeSync(file)
    },
    read(buf, offset) {
      mustBeWhole(readSync(file, buf, 0, buf.length, HEADER_BYTES + offset), buf.length)
      crypt(createDecipheriv, key, offset, buf, buf)
    },
    write(buf, offset) {
      const secret = Buffer.allocUnsafe(buf.length)
      crypt(createCipheriv, key, offset, buf, secret)
      mustBeWhole(writeSync(file, secret, 0, secret.length, HEADER_BYTES + offset), buf.length)
    },
    flush() {
      fdatasyncSync(file)
    },
  }
}

/** What a device needs to know: the key of its sectors, and its size. */
interface Disk {
  key: Buffer
  size: number
}

/** Reads the header. Refuses a wrong key. */
function unlock(options: EncryptedOptions): Disk {
  const { path } = options
  const file = openSync(path, 'r')
  try {
    const header = Buffer.alloc(HEADER_BYTES)
    readSync(file, header, 0, HEADER_BYTES, 0)
    if (!header.subarray(0, MAGIC.length).equals(MAGIC)) throw new Error(`${path} is not an encrypted disk of this program`)
    const saltEnd = MAGIC.length + SALT_BYTES
    const { key, check } = deriveKey(options, header.subarray(MAGIC.length, saltEnd))
    if (!timingSafeEqual(check, header.subarray(saltEnd, saltEnd + CHECK_BYTES))) throw new Error(`the key does not fit ${path}`)
    return { key, size: fstatSync(file).size - HEADER_BYTES }
  } finally {
    closeSync(file)
  }
}

function create(options: EncryptedOptions): Disk {
  if (options.size === undefined) throw new Error(`${options.path} is not there yet: give the size of the device`)
  const size = parseSize(options.size)
  const salt = randomBytes(SALT_BYTES)
  const { key, check } = deriveKey(options, salt)
  const file = openSync(options.path, 'wx', 0o600)
  try {
    writeSync(file, Buffer.concat([MAGIC, salt, check]))
    ftruncateSync(file, HEADER_BYTES + size)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
  return { key, size }
}

/** One derivation gives the key and a value that shows whether it is the right one, and tells nothing of it. */
function deriveKey({ keyFile, passphraseFile }: EncryptedOptions, salt: Buffer): { key: Buffer; check: Buffer } {
  let derived: Buffer
  if (keyFile !== undefined) {
    const secret = readFileSync(keyFile)
    if (secret.length < MIN_SECRET_BYTES)
      throw new Error(`${keyFile} must have at least ${MIN_SECRET_BYTES} bytes, it has ${secret.length}`)
    derived = Buffer.from(hkdfSync('sha256', secret, salt, MAGIC, KEY_BYTES + CHECK_BYTES))
  } else if (passphraseFile !== undefined) {
    const passphrase = readFileSync(passphraseFile, 'utf8').replace(/\r?\n$/, '')
    // 128 MiB and about half a second for each guess.
    derived = scryptSync(passphrase, salt, KEY_BYTES + CHECK_BYTES, { N: 2 ** 17, r: 8, p: 1, maxmem: 2 ** 28 })
  } else {
    throw new Error('give keyFile or passphraseFile')
  }
  return { key: derived.subarray(0, KEY_BYTES), check: derived.subarray(KEY_BYTES) }
}

function crypt(make: typeof createCipheriv | typeof createDecipheriv, key: Buffer, offset: number, from: Buffer, to: Buffer): void {
  const tweak = Buffer.alloc(16)
  for (let at = 0; at < from.length; at += SECTOR_BYTES) {
    tweak.writeBigUInt64LE(BigInt((offset + at) / SECTOR_BYTES))
    to.set(make('aes-256-xts', key, tweak).update(from.subarray(at, at + SECTOR_BYTES)), at)
  }
}

function mustBeWhole(done: number, expected: number): void {
  if (done !== expected) throw new Error(`the file took or gave ${done} of ${expected} bytes`)
}
