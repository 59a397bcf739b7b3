/** Key pairs for tests, made once per directory. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import ssh2 from 'ssh2'

/** The name of the kind and 32 bytes, each behind a length of four. */
const ED25519_BLOB_BYTES = 51

export interface Key {
  /** The private half, mode 0600. */
  file: string
  publicKey: string
}

/** The library cuts the leading zero off one public key in 256, and does not read what it has written then. */
function usablePair(comment: string): { private: string; public: string } {
  for (;;) {
    const pair = ssh2.utils.generateKeyPairSync('ed25519', { comment })
    const halves = [pair.private, pair.public].map((half) => ssh2.utils.parseKey(half))
    const blob = Buffer.from(pair.public.split(' ')[1] ?? '', 'base64')
    if (blob.length === ED25519_BLOB_BYTES && !halves.some((half) => half instanceof Error)) return pair
  }
}

export function keyIn(directory: string, name: string): Key {
  const file = join(directory, name)
  if (!existsSync(file)) {
    const pair = usablePair(name)
    writeFileSync(file, pair.private, { mode: 0o600 })
    writeFileSync(`${file}.pub`, `${pair.public}\n`)
  }
  return { file, publicKey: readFileSync(`${file}.pub`, 'utf8') }
}
