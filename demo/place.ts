/**
 * Where the demo runs: on this machine if it can serve and mount devices, else in the virtual machine of `vm/`.
 */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { isSupported } from 'ublk'
import { hasProgram } from './shell.ts'

const ROOT = join(import.meta.dirname, '..')
const PROGRAMS = ['fio', 'mkfs.ext4', 'e2fsck', 'mkfs.xfs', 'xfs_repair', 'mount', 'umount', 'sha256sum', 'dd']
/** Ten times what boot and demo take on an emulated machine that has nothing else to do. */
const VM_LIMIT_SECONDS = 480

/** Why the demo does not run right here. */
export interface Obstacle {
  reason: string
  /** What would mend it; may be empty. */
  hint: string
  /** A virtual machine would not help, or cannot be had. */
  isFinal: boolean
}

/** What stands against running here, or null. */
export function obstacleHere(): Obstacle | null {
  // The kernels of the VM are for x86-64.
  const isFinal = process.arch !== 'x64'
  const { supported, code, reason, hint } = isSupported()
  if (!supported) return { reason, hint, isFinal: isFinal || code === 'ERR_UBLK_UNSUPPORTED' }
  if (process.geteuid?.() !== 0) return { reason: 'mounting needs root', hint: '', isFinal }
  const missing = PROGRAMS.filter((program) => !hasProgram(program))
  return missing.length === 0 ? null : { reason: `it lacks ${missing.join(', ')}`, hint: '', isFinal }
}

/** Runs this program in the virtual machine; resolves with its exit status. Ctrl-C reaches `vm/run` too, which ends the machine. */
export function runInVm(): Promise<number> {
  const colour = process.stdout.isTTY && process.stdout.hasColors() ? ['--env', 'FORCE_COLOR=1'] : []
  const args = ['--timeout', String(VM_LIMIT_SECONDS), ...colour, '--', 'node', join(import.meta.dirname, 'demo.ts'), '--here']
  return new Promise((resolve, reject) => {
    const child = spawn(join(ROOT, 'vm', 'run'), args, { stdio: ['ignore', 'inherit', 'inherit'] })
    const forward = (signal: NodeJS.Signals): void => void child.kill(signal)
    process.on('SIGINT', () => {})
    process.on('SIGTERM', forward)
    child.once('error', reject)
    child.once('exit', (status) => resolve(status ?? 1))
  })
}
