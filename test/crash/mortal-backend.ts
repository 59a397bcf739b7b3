/** A backend over a file whose worker ends when it is told to: at its next request, or soon where none may come. */
import process from 'node:process'
import { setTimeout as delay } from 'node:timers/promises'
import type { Backend, BackendResult } from '../../src/index.ts'
import fileBackend from '../device/recovery-backend.ts'

interface Options {
  path: string
  size: number
  /** The first byte becomes 1. */
  order: SharedArrayBuffer
  /** Each request takes so long. */
  delayMs: number
}

export default function mortal({ path, size, order, delayMs }: Options): Backend {
  const inner = fileBackend({ path, size })
  const flag = new Uint8Array(order)
  const orDie = (): void => {
    if (Atomics.load(flag, 0) === 1) process.exit()
  }
  // Slow requests come all the time, and one of them is to be open.
  if (delayMs === 0) setInterval(orDie, 20).unref()
  const late = async (serve: () => BackendResult | Promise<BackendResult>): Promise<BackendResult> => {
    orDie()
    if (delayMs > 0) await delay(delayMs)
    return await serve()
  }
  return {
    ...inner,
    read: (buffer, offset, request) => late(() => inner.read(buffer, offset, request)),
    write: (buffer, offset, request) => late(() => inner.write?.(buffer, offset, request)),
    flush: (request) => late(() => inner.flush?.(request)),
  }
}
