/**
 * What the tests of the examples share. Devices are used by other processes alone: this thread may serve them, and this process has
 * four threads for files, which the backends need.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { createDevice, type Device, type DeviceOptions } from 'ublk'

export const example = (name: string): URL => new URL(`../../examples/${name}`, import.meta.url)

/** Runs a shell command; gives its standard output, or throws with all it said. */
export async function sh(command: string): Promise<string> {
  const { status, stdout, stderr } = await shell(command)
  if (status !== 0) throw new Error(`\`${command}\` ended with ${status}:\n${stdout}${stderr}`)
  return stdout
}

export interface ShellResult {
  status: number | null
  stdout: string
  stderr: string
}

/** Runs a shell command; a command that fails is a result too. */
export function shell(command: string, options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}): Promise<ShellResult> {
  return new Promise((resolve, reject) => {
    const child = spawn('/bin/bash', ['-c', command], { stdio: ['ignore', 'pipe', 'pipe'], ...options })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    child.once('error', reject)
    child.once('close', (status) => resolve({ status, stdout, stderr }))
  })
}

/** A folder that goes at the end of the test. */
export function folder(t: ExecutionContext): string {
  const path = mkdtempSync(join(tmpdir(), 'ublk-example-'))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** A live device that is closed at the end of the test. What it reports as an error fails the test, unless `mayFail`. */
export async function serve(t: ExecutionContext, options: DeviceOptions, { mayFail = false } = {}): Promise<Device> {
  const device = await createDevice(options)
  const errors: Error[] = []
  device.on('error', (error) => errors.push(error))
  t.teardown(async () => {
    await device.close()
    if (!mayFail && errors[0] !== undefined) throw errors[0]
  })
  return device
}

/** Mounts a device, and unmounts it when `work` is done. */
export async function mounted<T>(t: ExecutionContext, device: Device, work: (path: string) => Promise<T>): Promise<T> {
  const path = join(folder(t), 'mnt')
  mkdirSync(path)
  await sh(`mount ${device.path} ${path}`)
  try {
    const result = await work(path)
    await sh(`umount ${path}`)
    return result
  } catch (error) {
    // Lazily: what failed may still hold files open, and it is the failure to tell.
    await shell(`umount --lazy ${path}`)
    throw error
  }
}

const FILE_BYTES = [0, 1, 4095, 4096, 70_000, 1 << 20]

/** Files of random bytes. */
export async function writeFiles(path: string): Promise<void> {
  await sh(`cd ${path} && for n in ${FILE_BYTES.join(' ')}; do head -c $n /dev/urandom >file-$n; done`)
}

/** The MD5 of every file in a folder, as md5sum writes it. */
export async function digests(path: string): Promise<string> {
  return sh(`cd ${path} && md5sum file-*`)
}

/** A new ext4 keeps files over a remount, and its check finds nothing wrong. Gives the digests of the files. */
export async function keepsFiles(t: ExecutionContext, device: Device): Promise<string> {
  await sh(`mkfs.ext4 -q ${device.path}`)
  const written = await mounted(t, device, async (path) => {
    await writeFiles(path)
    return digests(path)
  })
  t.is(written.trimEnd().split('\n').length, FILE_BYTES.length)
  t.is(await mounted(t, device, digests), written)
  await sh(`e2fsck -fn ${device.path}`)
  return written
}
