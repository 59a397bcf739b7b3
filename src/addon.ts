/**
 * Finds and loads the native addon of this platform, once per thread.
 *
 * Thread: any; each worker loads it for itself. Importing this module never throws: the reason why there is no addon is kept and given to
 * the first call that needs one.
 */
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { messageOf, UblkError } from './errors.ts'
import type { NativeBinding } from './native.ts'

/** CPU architectures with a prebuilt addon. */
const ARCHITECTURES = ['x64', 'arm64']

const require = createRequire(import.meta.url)
let loaded: { binding: NativeBinding } | { error: UblkError } | undefined

/** The addon, or the `UblkError` that says why there is none, thrown. */
export function native(): NativeBinding {
  loaded ??= load()
  if ('error' in loaded) throw loaded.error
  return loaded.binding
}

function load(): { binding: NativeBinding } | { error: UblkError } {
  try {
    const binding = requireAddon()
    checkVersion(binding.version())
    return { binding }
  } catch (error) {
    return { error: error instanceof UblkError ? error : unsupported(`the native addon cannot be loaded: ${reasonOf(error)}`, '', error) }
  }
}

function requireAddon(): NativeBinding {
  if (process.platform !== 'linux') {
    throw unsupported(`ublk needs Linux, this is ${process.platform}`, 'Run it on Linux 6.1 or later, or in a virtual machine with it.')
  }
  if (!ARCHITECTURES.includes(process.arch)) {
    throw unsupported(`there is no addon for the architecture ${process.arch}`, `Supported are ${ARCHITECTURES.join(' and ')}.`)
  }
  const target = `linux-${process.arch}-${usesMusl() ? 'musl' : 'gnu'}`
  const local = fileURLToPath(new URL(`../native/ublk.${target}.node`, import.meta.url))
  try {
    return require(existsSync(local) ? local : `ublk-${target}`) as NativeBinding
  } catch (error) {
    throw unsupported(
      `the native addon for ${target} cannot be loaded: ${reasonOf(error)}`,
      `Install the package ublk-${target} (an optional dependency of ublk; npm leaves it out with --omit=optional), or build it: make build.`,
      error,
    )
  }
}

/** Whether this process runs on musl, by the loader that is mapped into it. */
function usesMusl(): boolean {
  return readFileSync('/proc/self/maps', 'latin1').includes('/ld-musl-')
}

function checkVersion(addon: string): void {
  const { version } = require('../package.json') as { version: string }
  if (addon === version) return
  throw unsupported(
    `the native addon is version ${addon}, the package ublk is ${version}`,
    'Install both from the same release: remove node_modules and install again, or make build.',
  )
}

/** Without the list of files that `require` adds on further lines. */
function reasonOf(error: unknown): string {
  return messageOf(error).split('\n', 1)[0] ?? ''
}

function unsupported(message: string, hint: string, cause?: unknown): UblkError {
  return new UblkError('ERR_UBLK_UNSUPPORTED', { message, hint, cause })
}
