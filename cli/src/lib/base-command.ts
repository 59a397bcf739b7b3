/**
 * What all verbs share: `--json`, and one way to report an error and to set the exit status.
 *
 * A verb returns its result as an object (printed under `--json`) and prints its text with `this.log` (silent under
 * `--json`). It throws whatever went wrong.
 */

import { Command } from '@oclif/core/command'
import { type ErrorReport, reportLines, reportOf, usage } from './failure.ts'

export abstract class BaseCommand extends Command {
  static override enableJsonFlag = true

  /** Compact, and never coloured: it is read by programs. */
  protected override logJson(json: unknown): void {
    process.stdout.write(`${JSON.stringify(json)}\n`)
  }

  protected override async catch(error: Error): Promise<void> {
    // oclif warns about verbs that did not read their arguments, also when reading them is what failed.
    this.parsed = true
    printError(error, this.jsonEnabled())
  }
}

/** Reports an error, and sets the exit status that belongs to it. */
export function printError(error: unknown, json: boolean): void {
  const report = reportOf(error)
  process.exitCode = report.exitCode
  if (json) process.stdout.write(`${JSON.stringify({ error: withoutNulls(report) })}\n`)
  else process.stderr.write(reportLines(report))
  if (isDebugging()) process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`)
}

/** Reads the number of a device from an argument. */
export function parseId(text: string): number {
  const id = /^(?:\/dev\/ublk[bc])?(\d{1,7})$/.exec(text)?.[1]
  if (id === undefined)
    throw usage(`${JSON.stringify(text)} is not a device`, 'Give the number of the device, or its path such as /dev/ublkb0.')
  return Number(id)
}

/** `DEBUG=ublk` (or a list with it) adds stack traces to error reports. */
function isDebugging(): boolean {
  return (process.env.DEBUG ?? '').split(',').some((name) => name === 'ublk' || name === '*')
}

/** `code`, `message` and `hint` always, the details where there are any. */
function withoutNulls(report: ErrorReport): Partial<ErrorReport> {
  return Object.fromEntries(Object.entries(report).filter(([name, value]) => value !== null || name === 'hint'))
}

/** Tells of an error that is not the verb's outcome. */
export function printWarning(error: unknown): void {
  process.stderr.write(reportLines(reportOf(error)))
}
