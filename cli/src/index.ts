/**
 * The verbs, by name: oclif's explicit strategy, so that nothing searches directories at start.
 *
 * All of them take as long to load as one takes to run, so the one that is named is loaded alone. oclif knows the others where it speaks of
 * them: in the help of the program.
 */

import type { Command } from '@oclif/core/command'

const VERBS: Record<string, () => Promise<{ default: Command.Class }>> = {
  add: () => import('./commands/add.ts'),
  affinity: () => import('./commands/affinity.ts'),
  cleanup: () => import('./commands/cleanup.ts'),
  del: () => import('./commands/del.ts'),
  doctor: () => import('./commands/doctor.ts'),
  features: () => import('./commands/features.ts'),
  info: () => import('./commands/info.ts'),
  list: () => import('./commands/list.ts'),
  quiesce: () => import('./commands/quiesce.ts'),
  recover: () => import('./commands/recover.ts'),
  resize: () => import('./commands/resize.ts'),
  serve: () => import('./commands/serve.ts'),
  shmem: () => import('./commands/shmem.ts'),
  stats: () => import('./commands/stats.ts'),
  stop: () => import('./commands/stop.ts'),
  udev: () => import('./commands/udev.ts'),
}

/** Those that are loaded: oclif finds them here, by the name that package.json gives it. */
export const COMMANDS: Record<string, Command.Class> = {}

/** First words that ask about no verb. */
const VERBLESS = ['--version', '-V']

/** Loads the verb that is the first word of a command line; all verbs if that word is none. */
export async function loadVerbs(word = ''): Promise<void> {
  if (VERBLESS.includes(word)) return
  const named = Object.entries(VERBS).filter(([name]) => !Object.hasOwn(VERBS, word) || name === word)
  const loaded = await Promise.all(named.map(async ([name, load]) => [name, (await load()).default]))
  Object.assign(COMMANDS, Object.fromEntries(loaded))
}
