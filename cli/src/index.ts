/** The verbs, by name: oclif's explicit strategy, so that nothing searches directories at start. */

import type { Command } from '@oclif/core/command'
import Add from './commands/add.ts'
import Affinity from './commands/affinity.ts'
import Cleanup from './commands/cleanup.ts'
import Del from './commands/del.ts'
import Doctor from './commands/doctor.ts'
import Features from './commands/features.ts'
import Info from './commands/info.ts'
import List from './commands/list.ts'
import Quiesce from './commands/quiesce.ts'
import Recover from './commands/recover.ts'
import Resize from './commands/resize.ts'
import Serve from './commands/serve.ts'
import Shmem from './commands/shmem.ts'
import Stats from './commands/stats.ts'
import Stop from './commands/stop.ts'
import Udev from './commands/udev.ts'

export const COMMANDS: Record<string, Command.Class> = {
  add: Add,
  affinity: Affinity,
  cleanup: Cleanup,
  del: Del,
  doctor: Doctor,
  features: Features,
  info: Info,
  list: List,
  quiesce: Quiesce,
  recover: Recover,
  resize: Resize,
  serve: Serve,
  shmem: Shmem,
  stats: Stats,
  stop: Stop,
  udev: Udev,
}
