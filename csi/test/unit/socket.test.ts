/** Who may take the path of a socket: one process for each directory, whatever the directory is called. */
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { status } from '@grpc/grpc-js'
import test from 'ava'
import { CsiError } from '../../src/errors.ts'
import { claimSocketPath } from '../../src/socket.ts'

test('a path is of its directory: two containers may have one of the same name, and two names of one are the same path', async (t) => {
  const root = mkdtempSync(join(tmpdir(), 'ublk-csi-socket-'))
  t.teardown(() => rmSync(root, { recursive: true }))
  const [here, before, link] = ['csi', 'before', 'link'].map((name) => join(root, name)) as [string, string, string]
  mkdirSync(here)
  const first = await claimSocketPath(join(here, 'csi.sock'))
  // What another container has at that path is another directory.
  renameSync(here, before)
  mkdirSync(here)
  const second = await claimSocketPath(join(here, 'csi.sock'))
  symlinkSync(before, link)
  for (const directory of [here, before, link]) {
    const error = await t.throwsAsync(claimSocketPath(join(directory, 'csi.sock')), {
      instanceOf: CsiError,
      message: /another ublk-csi serves/,
    })
    t.is((error as CsiError).code, status.FAILED_PRECONDITION)
  }
  first.release()
  ;(await claimSocketPath(join(link, 'csi.sock'))).release()
  second.release()
})
