/** docs/errors.md from what the error tests observed. The prose is here, the tables are theirs. */

export interface Row {
  section: SectionName
  cells: string[]
}

export type SectionName = keyof typeof SECTIONS

const WHAT_IS_TOLD = ['What is wrong', 'Code', 'Message, *hint*', 'errno', 'Exit']
const WHAT_IS_SERVED = ['What happens', 'Served', 'The user of the device gets', 'Event `error`', 'The device then']

const SECTIONS = {
  machine: {
    title: 'The machine',
    intro: 'Found before anything is made. `isSupported()` and `ublk doctor` tell the same without making a device.',
    columns: WHAT_IS_TOLD,
  },
  devices: { title: 'Devices and their states', intro: '', columns: WHAT_IS_TOLD },
  options: {
    title: 'Options and arguments',
    intro: 'Misuse is a plain `TypeError` or `RangeError` from the library, and exit status 2 from the program, which speaks of its flags.',
    columns: WHAT_IS_TOLD,
  },
  files: { title: 'Files and servers of targets', intro: '', columns: WHAT_IS_TOLD },
  modules: { title: 'Backends that do not come up', intro: 'Nothing is left behind: the device is removed again.', columns: WHAT_IS_TOLD },
  serving: {
    title: 'While a device is served',
    intro:
      'What the program that reads or writes gets, past the page cache; through the cache every error is EIO. *Then* is the state of the ' +
      'device: while it is `live`, other requests are served as before.',
    columns: WHAT_IS_SERVED,
  },
  ends: {
    title: 'The end of the serving process',
    intro: 'While one request is open that its handler never answers.',
    columns: ['What happens', 'The process ends with', 'The user of the device gets', 'The device then'],
  },
} as const

/** Codes that these kernels cannot be brought to give; the mapping has tests of its own. */
const NOT_PROVOKED: [code: string, why: string, test: string][] = [
  [
    'ERR_UBLK_KERNEL_STUCK',
    'a command of the kernel that does not return and cannot be cancelled: a fault of the kernel',
    '`crates/ublk/src/error.rs`',
  ],
  [
    'ERR_UBLK_TIMEOUT',
    'a stop that waits 30 s for requests which the process that serves the device does not answer; it names the process',
    '`crates/ublk/tests/device.rs`',
  ],
  ['ERR_UBLK_KERNEL', 'answers of the kernel that have no code of their own', '`crates/ublk/src/error.rs`'],
]

export function render(rows: Row[]): string {
  const sections = Object.entries(SECTIONS).map(([name, { title, intro, columns }]) => {
    const own = rows.filter(({ section }) => section === name)
    const table = [columns, columns.map(() => '---'), ...own.map(({ cells }) => cells.map(inTable))]
    return [`## ${title}`, intro, table.map((cells) => `| ${cells.join(' | ')} |`).join('\n')].filter((part) => part !== '').join('\n\n')
  })
  return `${[head(), ...sections, tail(rows)].join('\n\n')}\n`
}

function head(): string {
  return `# What fails how

Made by \`test/errors/run --update\`, which provokes every case on real kernels; \`make test\` fails when an answer differs from this page.

Errors of the library are a \`UblkError\` with a stable \`code\`, a \`message\`, a \`hint\` (what to do next), and where there is one the kernel's
\`errno\`. The program \`ublk\` prints \`ublk: MESSAGE\` and \`hint: HINT\` on standard error, or with \`--json\` one value \`{"error": …}\` on standard
output, and ends with the exit status of the last column (0 done, 1 failed, 2 usage, 3 no such device, 4 permission, 5 unsupported here, 6 busy,
7 timed out). An empty cell in that column: a call of the library only. Messages may improve in any release; codes and exit statuses stay.`
}

function tail(rows: Row[]): string {
  const provoked = rows.flatMap(({ cells }) => cells).join('\n')
  const missing = NOT_PROVOKED.filter(([code]) => !provoked.includes(code))
  const lines = missing.map(([code, why, test]) => `| \`${code}\` | ${why} | ${test} |`)
  return ['## Not provoked', '| Code | When | Tested in |\n| --- | --- | --- |', ...lines].join('\n').replace('provoked\n', 'provoked\n\n')
}

function inTable(text: string): string {
  return text.replaceAll('|', '\\|')
}

/** Codes of the library that neither a row nor the last table names. */
export function uncovered(codes: string[], rows: Row[]): string[] {
  const text = render(rows)
  return codes.filter((code) => !text.includes(code))
}
