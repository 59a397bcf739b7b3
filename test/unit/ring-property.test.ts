/** Whatever handlers do, in whatever order: each request that native still waits for gets exactly one completion, with a legal result. */
import { setImmediate as turn } from 'node:timers/promises'
import test from 'ava'
import fc from 'fast-check'
import { OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE, OP_WRITE_ZEROES } from '../../src/layout.ts'
import { Ring } from '../../src/ring.ts'
import { copy, KernelSide } from './kernel-side.ts'

const DEPTH = 8

const answer = fc.oneof(
  fc.constant(undefined),
  fc.integer({ min: -5000, max: 5000 }),
  fc.double(),
  fc.anything(),
  fc.constantFrom({ code: 'ENOSPC' }, { errno: -30 }, new Error('x'), Object.create(null)),
)
const behaviour = fc.record({
  way: fc.constantFrom('return', 'throw', 'resolve', 'reject', 'later', 'later-reject', 'thenable', 'never'),
  answer,
})
type Behaviour = { way: string; answer: unknown }

const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('request' as const),
      tag: fc.nat(DEPTH - 1),
      op: fc.constantFrom(OP_READ, OP_WRITE, OP_FLUSH, OP_DISCARD, OP_WRITE_ZEROES, 77),
      blocks: fc.integer({ min: 1, max: 8 }),
      fua: fc.boolean(),
      handler: behaviour,
      flush: behaviour,
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('drain' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('turn' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('settle' as const), which: fc.nat(7) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('time-out' as const), tag: fc.nat(DEPTH - 1) }) },
)

function behave({ way, answer }: Behaviour, later: (() => void)[]): unknown {
  switch (way) {
    case 'return':
      return answer
    case 'throw':
      throw answer
    case 'resolve':
      return Promise.resolve(answer)
    case 'reject':
      return Promise.reject(answer)
    case 'thenable':
      // biome-ignore lint/suspicious/noThenProperty: a thenable is a subject
      return { then: (done: (v: unknown) => void, fail: (v: unknown) => void) => [done(answer), fail(answer), done(answer)] }
    case 'never':
      return new Promise((resolve) => later.push(() => resolve(undefined)))
    default:
      return new Promise((resolve, reject) => later.push(() => (way === 'later' ? resolve(answer) : reject(answer))))
  }
}

test('every request gets exactly one completion, whatever handlers do', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const kernel = new KernelSide(DEPTH, 4096, 0x7fff_fff0)
      const later: (() => void)[] = []
      /** What native waits for, by tag; the generation grows with each request of the tag. */
      const open = new Map<number, { generation: number; length: number; handlers: { handler: Behaviour; flush: Behaviour } }>()
      const answered = new Set<string>()
      const late = new Set<string>()
      const generations = new Array<number>(DEPTH).fill(0)
      const of = (tag: number): { handler: Behaviour; flush: Behaviour } => open.get(tag)!.handlers
      const run = (_b: unknown, _o: unknown, req: { tag: number }): number => behave(of(req.tag).handler, later) as number
      const ring = new Ring({
        backend: {
          read: run,
          write: run,
          discard: run,
          writeZeroes: run,
          flush: ({ tag, op }) =>
            behave(
              open.has(tag) && op === 'flush' ? of(tag).handler : (open.get(tag)?.handlers.flush ?? { way: 'return', answer: 0 }),
              later,
            ) as number,
        },
        memory: kernel.memory,
        queue: 0,
        depth: DEPTH,
        maxIoBytes: 4096,
        copy,
        sync: false,
        onPublish: () => {},
        onFailure: () => {},
      })
      const take = (): void => {
        for (const { tag, generation, result } of kernel.completions()) {
          const request = open.get(tag)
          const key = `${tag}/${generation}`
          t.false(answered.has(key), 'a second completion')
          answered.add(key)
          // Native drops what it does not wait for, by the generation; that may only be a request past its deadline.
          if (request?.generation !== generation) {
            t.true(late.has(key), 'a completion without a request')
            continue
          }
          t.true(Number.isInteger(result) && result >= -4095 && result <= request.length)
          open.delete(tag)
        }
      }
      for (const action of steps) {
        if (action.kind === 'request') {
          if (open.has(action.tag)) continue
          const length = action.op === OP_FLUSH ? 0 : action.blocks * 512
          const generation = generations[action.tag]!++
          open.set(action.tag, { generation, length, handlers: action })
          kernel.request({ tag: action.tag, op: action.op, length, fua: action.fua, generation })
        } else if (action.kind === 'drain') ring.drain()
        else if (action.kind === 'turn') await turn()
        else if (action.kind === 'settle') later.splice(action.which % Math.max(1, later.length), 1)[0]?.()
        // A deadline passes only for requests that JavaScript took.
        else if (!ring.hasRequests && open.has(action.tag)) {
          late.add(`${action.tag}/${open.get(action.tag)!.generation}`)
          open.delete(action.tag)
        }
        take()
      }
      while (ring.hasRequests) ring.drain()
      // A flush after a FUA write may be promised only once the write has settled.
      for (let round = 0; round < 3; round++) {
        for (const settle of later.splice(0)) settle()
        await turn()
      }
      take()
      t.deepEqual([...open.keys()], [], 'every request is answered')
    }),
    { numRuns: 400 },
  )
})
