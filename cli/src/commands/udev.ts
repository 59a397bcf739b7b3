import { join } from 'node:path'
import * as Flags from '@oclif/core/flags'
import { BaseCommand } from '../lib/base-command.ts'
import { EXIT, Failure, usage } from '../lib/failure.ts'

const PROGRAM = join(import.meta.dirname, '..', '..', 'bin', 'run.js')
/** The unit of udev forbids its children to make code (MemoryDenyWriteExecute): V8 interprets then, or it crashes. */
const MAKES_NO_CODE = '--jitless'

export default class Udev extends BaseCommand {
  static override summary = 'Print udev rules that let users who are not root have devices of their own.'
  static override description =
    'The rules open /dev/ublk-control to everybody, and give the nodes of each unprivileged device to the user who made it: whom, they ask \
this program. Nodes of other devices stay as they are. The driver itself lets nobody but its owner and root use an unprivileged device.'

  static override examples = [
    { description: 'Install them', command: '<%= config.bin %> udev | sudo tee /etc/udev/rules.d/61-ublk.rules' },
    { description: 'Take them into use', command: 'sudo udevadm control --reload && sudo udevadm trigger /dev/ublk-control' },
  ]

  static override flags = {
    owner: Flags.string({
      helpValue: 'NODE',
      summary: 'for the rules: print user and group of an unprivileged device, by the name of a node such as ublkc0; fail for others',
    }),
  }

  async run(): Promise<{ rules: string } | { uid: number; gid: number }> {
    const { flags } = await this.parse(Udev)
    if (flags.owner !== undefined) return this.#owner(flags.owner)
    const rules = rulesText(`${process.execPath} ${MAKES_NO_CODE} ${PROGRAM} udev --owner %k`)
    this.log(rules.trimEnd())
    return { rules }
  }

  async #owner(node: string): Promise<{ uid: number; gid: number }> {
    const id = /^ublk[bc](\d{1,7})(?:p\d+)?$/.exec(node)?.[1]
    if (id === undefined) throw usage(`--owner ${node} is not the name of a node`, 'Names are such as ublkc0, ublkb0 and ublkb0p1.')
    const { deviceInfo } = await import('ublk')
    const { flags, ownerUid: uid, ownerGid: gid } = await deviceInfo(Number(id))
    if (!flags.includes('UNPRIVILEGED_DEV')) throw notUnprivileged(id)
    this.log(`${uid} ${gid}`)
    return { uid, gid }
  }
}

function notUnprivileged(id: string): Failure {
  return new Failure({
    code: 'ERR_UBLK_INVALID_STATE',
    message: `device ${id} is not an unprivileged one: its nodes are root's`,
    hint: 'A device is made unprivileged with `ublk add --unprivileged`.',
    exitCode: EXIT.failed,
  })
}

/** @param owner command that prints user and group of the node %k */
function rulesText(owner: string): string {
  return `# ublk devices of users who are not root. Printed by \`ublk udev\`; its path is in here: print them again when it moves.

# Everybody may ask for a device. The driver limits how many (parameter ublks_max of ublk_drv).
KERNEL=="ublk-control", SUBSYSTEM=="misc", MODE="0666", OPTIONS+="static_node=ublk-control"

# The nodes of an unprivileged device belong to the user who made it; for other devices the program fails, and nothing is changed.
ACTION=="add|change", SUBSYSTEM=="ublk-char", KERNEL=="ublkc[0-9]*", PROGRAM="${owner}", OWNER="%c{1}", GROUP="%c{2}", MODE="0600"
ACTION=="add|change", SUBSYSTEM=="block", KERNEL=="ublkb[0-9]*", PROGRAM="${owner}", OWNER="%c{1}", GROUP="%c{2}", MODE="0600"
`
}
