/** When the victim of an arrow is killed: after delays that look random and are the same for the same seed. */

/** Half of the delays are shorter than 25 ms: calls that change something take from some milliseconds to seconds. */
const LONGEST_MS = 400

/** Milliseconds, another number with each call. */
export function delaysOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    // mulberry32: 32 bits of state, good enough for when to kill something.
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    const fraction = ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
    return Math.floor(LONGEST_MS * fraction ** 4)
  }
}
