/**
 * Runs one fio job file on one block device and reads what it measured.
 *
 * fio runs alone on the guest's CPU with the server it measures: whoever calls this sleeps until it ends.
 */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

/**
 * The part of each device that is measured. Small: under emulation filling it takes longer than measuring it, and counted instructions know
 * no caches.
 */
export const MEBIBYTES = 32

/** Names of the files in bench/fio, without `.fio`. */
export type Job = 'read-4k-qd64' | 'write-4k-qd64' | 'read-4k-qd1' | 'read-128k-qd16' | 'write-128k-qd16'

export interface FioResult {
  requests: number
  /** Requests per second. */
  rate: number
  bytesPerSecond: number
}

interface FioSide {
  total_ios: number
  iops: number
  bw_bytes: number
}

const run = promisify(execFile)

/** Writes every block of the jobs once, with every tag. */
export async function fill(device: string): Promise<void> {
  await fio('fill', device, 0)
}

/** Runs `job` on `device` for `seconds`. */
export async function measure(job: Job, device: string, seconds: number): Promise<FioResult> {
  const output = await fio(job, device, seconds)
  const { jobs } = JSON.parse(output) as { jobs: Array<{ error: number; read: FioSide; write: FioSide }> }
  const [result] = jobs
  if (result === undefined || result.error !== 0) throw new Error(`fio ${job} on ${device} failed with error ${result?.error}`)
  const side = job.startsWith('read') ? result.read : result.write
  return { requests: side.total_ios, rate: side.iops, bytesPerSecond: side.bw_bytes }
}

async function fio(job: string, device: string, seconds: number): Promise<string> {
  const file = fileURLToPath(new URL(`./fio/${job}.fio`, import.meta.url))
  const env = { ...process.env, DEVICE: device, SECONDS: `${seconds * 1000}ms`, SIZE: `${MEBIBYTES}m` }
  const { stdout } = await run('fio', ['--output-format=json', file], { env })
  return stdout
}
