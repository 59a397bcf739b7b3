import { join } from 'node:path'
import * as Flags from '@oclif/core/flags'
import { BaseCommand, printWarning } from '../lib/base-command.ts'
import { reportOf, usage } from '../lib/failure.ts'
import { lock } from '../lib/lock.ts'
import { type ServeEvent, sentenceOf } from '../lib/serve-events.ts'
import { canonical, type Entry, readServeFile } from '../lib/serve-file.ts'
import { ServiceManager } from '../lib/service-manager.ts'
import { stopSignals } from '../lib/signals.ts'
import { StateDirectory } from '../lib/state.ts'
import { Supervisor } from '../lib/supervisor.ts'
import type { ServeSpec } from '../lib/target.ts'
import { unitText } from '../lib/unit.ts'
import Add, { specOf } from './add.ts'

const PROGRAM = join(import.meta.dirname, '..', '..', 'bin', 'run.js')

export default class Serve extends BaseCommand {
  static override summary = 'Keep the devices of a file up: make, adopt and recover them.'
  static override description =
    `FILE is JSON: {"devices": [{"name": "disk", "add": ["file", "disk.img", "--create", "--size", "10G"]}]}. "add" has the words of \
\`ublk add\`, one a string; relative paths are relative to the directory of FILE. Without --recovery among them a device has reissue, where that is possible: \
it outlives its server. Each device has a server of its own; when that dies, another one takes over within a second. What fails is tried again \
after a pause that doubles: "restart": {"delay": "100ms", "longest": "30s", "tries": 8, "rarely": "5m"} are the defaults; when all tries are used up \
it says so, and tries rarely.

SIGHUP has it read FILE again. What is no more in it is removed, and what is other words is made anew, when nobody has the device open; \
a larger --size is taken at once, where target and kernel can grow. SIGTERM and SIGINT end it, and the devices stay up: the next run adopts them. \`ublk quiesce ID\` gives a device a new \
server, \`ublk del\` is undone: take the device out of FILE.

With --json each event is one line: started, adopted, recovered, gone, failed, backoff, warning, in-use, removed, resized, ready, reloaded, reload-failed, stopping.`

  static override usage = 'serve --config FILE [FLAGS] | --print-unit'
  static override examples = [
    { description: 'Is FILE right?', command: '<%= config.bin %> serve --config /etc/ublk/main.json --check' },
    '<%= config.bin %> serve --config /etc/ublk/main.json',
    {
      description: 'As a service of systemd',
      command: '<%= config.bin %> serve --print-unit | sudo tee /etc/systemd/system/ublk@.service && sudo systemctl enable --now ublk@main',
    },
  ]

  static override flags = {
    config: Flags.string({ char: 'c', helpValue: 'FILE', summary: 'the devices' }),
    check: Flags.boolean({ dependsOn: ['config'], summary: 'only say whether FILE is right' }),
    'stop-on-exit': Flags.boolean({ summary: 'stop and remove the devices at SIGTERM and SIGINT' }),
    'print-unit': Flags.boolean({ exclusive: ['config'], summary: 'print a systemd unit template, ublk@.service' }),
  }

  async run(): Promise<{ unit: string } | { devices: { name: string; spec: ServeSpec }[] } | undefined> {
    const { flags } = await this.parse(Serve)
    if (flags['print-unit']) {
      const unit = unitText([process.execPath, PROGRAM])
      this.log(unit.trimEnd())
      return { unit }
    }
    if (flags.config === undefined) throw usage('serve needs --config FILE', 'See `ublk serve --help` for an example.')
    const file = canonical(flags.config)
    const read = (): Promise<Entry[]> => readServeFile(file, (words) => this.#specOf(words))
    const entries = await read()
    if (flags.check) {
      this.log(`${file}: ${entries.length} devices`)
      return { devices: entries.map(({ name, spec: { target, device } }) => ({ name, spec: { target, device } })) }
    }
    return this.#serve(file, entries, read, !flags['stop-on-exit'])
  }

  async #serve(file: string, entries: Entry[], read: () => Promise<Entry[]>, leaves: boolean): Promise<undefined> {
    lock(StateDirectory.forUser(), file)
    const manager = new ServiceManager(printWarning)
    const tell = (event: ServeEvent): void => this.#print(event)
    const supervisor = new Supervisor(manager, tell)
    const { signal } = stopSignals(['SIGTERM', 'SIGINT'])
    const stopped = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    let reading: Promise<void> = Promise.resolve()
    process.on('SIGHUP', () => {
      reading = reading.then(async () => {
        try {
          supervisor.reload(await read())
        } catch (error) {
          const { code, message, hint } = reportOf(error)
          tell({ event: 'reload-failed', error: { code, message, hint } })
        }
      })
    })
    supervisor.start(file, entries)
    await stopped
    tell({ event: 'stopping', signal: String(signal.reason), leaves })
    try {
      await supervisor.stop({ leaves })
    } finally {
      await manager.close()
    }
  }

  async #specOf(words: string[]): Promise<ServeSpec> {
    const stranger = words.find((word) => ['--json', '--run', '--foreground'].includes(word.split('=')[0] as string))
    if (stranger !== undefined) throw usage(`${stranger} is not for a device of FILE`)
    const { argv } = this
    try {
      return specOf(await this.parse(Add, words))
    } finally {
      // The parser takes what it read last for the verb's own words.
      this.argv = argv
    }
  }

  #print(event: ServeEvent): void {
    if (this.jsonEnabled()) this.logJson({ time: new Date().toISOString(), ...event })
    else process.stderr.write(`ublk: ${sentenceOf(event)}\n`)
  }
}
