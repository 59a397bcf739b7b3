/**
 * A Unix socket of our own: one process at a time, mode 0600, and a file that a dead process left behind is no obstacle.
 *
 * Who may take the path is decided by a name in the kernel's abstract namespace, which vanishes with its process: two that start at the
 * same time cannot both find the other's file stale and remove it.
 */
import { chmod, lstat, stat, unlink } from 'node:fs/promises'
import { connect, createServer, type Server } from 'node:net'
import { basename, dirname } from 'node:path'
import { failedPrecondition } from './errors.ts'

export interface ClaimedPath {
  /** Gives the name back. */
  release(): void
}

/** Claims `path` and removes a stale socket there. Throws FAILED_PRECONDITION when somebody serves it, or when it is no socket. */
export async function claimSocketPath(path: string): Promise<ClaimedPath> {
  // Containers that share the host's network see different directories under one path.
  const { dev, ino } = await stat(dirname(path), { bigint: true })
  const claim = await claimName(`ublk-csi:${dev}:${ino}/${basename(path)}`, `another ublk-csi serves ${path}; stop it first`)
  try {
    await removeStale(path)
  } catch (error) {
    claim.release()
    throw error
  }
  return claim
}

/** Claims a name among all processes of this network namespace until it is released or the process ends. */
export function claimName(name: string, refusal: string): Promise<ClaimedPath> {
  const holder = createServer().unref()
  return new Promise((resolveClaim, reject) => {
    holder.once('error', (cause: NodeJS.ErrnoException) => {
      reject(cause.code === 'EADDRINUSE' ? failedPrecondition(refusal, { cause }) : cause)
    })
    holder.listen({ path: `\0${name}` }, () => resolveClaim({ release: () => holder.close() }))
  })
}

async function removeStale(path: string): Promise<void> {
  const found = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
  })
  if (found === undefined) return
  if (!found.isSocket()) throw failedPrecondition(`${path} exists and is no socket; remove it, or choose another path`)
  if (await answers(path)) throw failedPrecondition(`another process serves ${path}; stop it first`)
  await unlink(path)
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolveAnswer) => {
    const probe = connect({ path })
    probe.once('connect', () => {
      probe.destroy()
      resolveAnswer(true)
    })
    probe.once('error', () => resolveAnswer(false))
  })
}

/** Listens at a claimed path. It is never open to others: the mask holds while the file appears. */
export function listenPrivately(server: Server, path: string): Promise<void> {
  const mask = process.umask(0o177)
  return new Promise<void>((resolveListening, reject) => {
    server.once('error', reject)
    // Binding happens within the call, so the mask need not wait for the event.
    server.listen({ path }, () => resolveListening())
  })
    .finally(() => server.removeAllListeners('error'))
    .then(() => chmod(path, 0o600))
    .finally(() => process.umask(mask)) as Promise<void>
}
