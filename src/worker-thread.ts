/**
 * Runs a backend module in a worker: loads it, says what it can do, opens it, serves one queue once, ends.
 *
 * Thread: the worker, which owns the queue's ring: the kernel takes a COMMIT only from the thread that fetched. The memory is the device
 * owner's. If this thread dies, an environment clean-up hook of the addon answers what is open.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { native } from './addon.ts'
import { abilitiesOf, type Backend, type BackendInfo } from './backend.ts'
import * as layout from './layout.ts'
import { type FromWorker, type ServeMessage, type ToWorker, toPlainError, type WorkerInit } from './messages.ts'
import type { QueueTurns, WorkerQueue } from './native.ts'
import { Ring } from './ring.ts'

/** Turns of the event-loop mode in one go; then timers and sockets get theirs. */
const MAX_TURNS = 16

const port = parentPort as NonNullable<typeof parentPort>
const say = (message: FromWorker): void => port.postMessage(message)
let refuse: (reason: Error) => void = () => {}

try {
  const backend = await loadBackend(workerData as WorkerInit)
  port.on('message', (message: ToWorker) => void obey(backend, message))
  say({ type: 'loaded', abilities: abilitiesOf(backend, 'the default export', "the default export's ") })
} catch (error) {
  say({ type: 'failed', error: toPlainError(error) })
}

async function loadBackend({ url, options }: WorkerInit): Promise<Backend> {
  const module = (await import(url)) as { default?: unknown }
  const backend = module.default
  return typeof backend === 'function' ? await backend(options) : (backend as Backend)
}

async function obey(backend: Backend, message: ToWorker): Promise<void> {
  switch (message.type) {
    case 'open':
      return open(backend, message.info)
    case 'serve':
      return serve(backend, message)
    case 'close':
      return say({ type: 'ended', error: await closeBackend(backend) })
    case 'refuse':
      refuse(new Error(message.reason))
      return say({ type: 'refusing' })
  }
}

async function open(backend: Backend, info: BackendInfo): Promise<void> {
  try {
    await backend.open?.(info)
    say({ type: 'opened' })
  } catch (error) {
    say({ type: 'failed', error: toPlainError(error) })
  }
}

async function serve(backend: Backend, message: ServeMessage): Promise<void> {
  try {
    const binding = native()
    const queue = new binding.WorkerQueue(message.key, message.queue)
    const { value: turns, error } = queue.fetch()
    if (error !== null) {
      await backend.close?.()
      say({ type: 'failed', error: toPlainError(new Error(error.message), error) })
      return
    }
    say({ type: 'serving' })
    if (backend.sync === true)
      serveBlocking(
        turns,
        makeRing(backend, message, () => {}),
      )
    else await serveOnEventLoop(queue, turns, backend, message)
  } catch (error) {
    say({ type: 'failed', error: toPlainError(error) })
    return
  }
  say({ type: 'ended', error: await closeBackend(backend) })
}

async function closeBackend(backend: Backend): Promise<ReturnType<typeof toPlainError> | null> {
  try {
    await backend.close?.()
    return null
  } catch (error) {
    return toPlainError(error)
  }
}

function makeRing(backend: Backend, message: ServeMessage, onPublish: () => void): Ring {
  const { queue, depth, maxIoBytes, slab, control, slots } = message
  return new Ring({
    backend,
    memory: { slab, control, slots },
    queue,
    depth,
    maxIoBytes,
    copy: native().copy,
    sync: backend.sync === true,
    onPublish,
    onFailure: ({ message, cause }) => say({ type: 'report', message, cause: cause === undefined ? null : toPlainError(cause) }),
  })
}

/** One native call commits a batch, waits in the kernel and brings the next; the event loop does not run. */
function serveBlocking({ wait }: QueueTurns, ring: Ring): void {
  while (wait() !== layout.STATE_ENDED) {
    do ring.drain()
    while (ring.hasRequests)
  }
}

/** The same object on the event loop: handlers may return promises. Resolves when the queue has ended. */
function serveOnEventLoop(queue: WorkerQueue, { poll }: QueueTurns, backend: Backend, message: ServeMessage): Promise<void> {
  return new Promise((resolve, reject) => {
    let ended = false
    const ring = makeRing(backend, message, () => turn())
    refuse = (reason) => ring.refuse(reason)
    const turn = (): void => {
      try {
        for (let turns = 0; !ended && turns < MAX_TURNS; turns++) {
          const state = poll()
          if (state === layout.STATE_FAILING) ring.refuse(new Error('the device failed'))
          if (state === layout.STATE_ENDED) {
            ended = true
            queue.unwatch()
            resolve()
            return
          }
          // What was answered at once is committed by the next poll; what was not comes back through onPublish or the watch.
          if (ring.drain() === 0 && !ring.hasRequests) return
        }
        if (!ended) setImmediate(turn)
      } catch (error) {
        ended = true
        reject(error)
      }
    }
    queue.watch(turn)
    turn()
  })
}
