// Preloaded into every Node.js of an emulated guest: serves TypeScript whose types the host has stripped, found by the source's hash.
//
// Stripping in the guest crashes now and then, and takes a second of each process's start: docs/investigations/type-stripping. What the
// host has not seen, such as a file that a test has written, Node strips as usual.
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { registerHooks } from 'node:module'
import { fileURLToPath } from 'node:url'

const stripped = '/run/vm/stripped/'

registerHooks({
  load(url, context, nextLoad) {
    if (!context.format?.endsWith('-typescript') || !url.startsWith('file:')) return nextLoad(url, context)
    const twin = stripped + createHash('sha256').update(readFileSync(fileURLToPath(url))).digest('hex')
    if (!existsSync(twin)) return nextLoad(url, context)
    return { format: context.format.slice(0, -'-typescript'.length), source: readFileSync(twin), shortCircuit: true }
  },
})
