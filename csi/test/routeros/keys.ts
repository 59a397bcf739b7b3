/** Key pairs for tests, made once per directory. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import ssh2 from 'ssh2'

export interface Key {
  /** The private half, mode 0600. */
  file: string
  publicKey: string
}

export function keyIn(directory: string, name: string): Key {
  const file = join(directory, name)
  if (!existsSync(file)) {
    const pair = ssh2.utils.generateKeyPairSync('ed25519', { comment: name })
    writeFileSync(file, pair.private, { mode: 0o600 })
    writeFileSync(`${file}.pub`, `${pair.public}\n`)
  }
  return { file, publicKey: readFileSync(`${file}.pub`, 'utf8') }
}
