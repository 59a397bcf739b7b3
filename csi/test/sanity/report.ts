/** What a run of csi-sanity was worth: how many specs ran, and why the others did not. */

export interface SpecReport {
  State: 'passed' | 'failed' | 'skipped' | 'pending' | 'panicked' | 'interrupted' | 'timedout' | 'aborted'
  LeafNodeType: string
  LeafNodeText: string
  ContainerHierarchyTexts: string[] | null
  Failure?: { Message: string; Location: { FileName: string; LineNumber: number } }
}

export interface SanityCounts {
  ran: number
  passed: number
  failed: number
  skipped: number
}

const isSpec = ({ LeafNodeType }: SpecReport): boolean => LeafNodeType === 'It'
const nameOf = ({ ContainerHierarchyTexts, LeafNodeText }: SpecReport): string =>
  [...(ContainerHierarchyTexts ?? []), LeafNodeText].join(' ')

/** The counts, and lines for people: each failure, and each skipped spec with its reason. */
export function summarize(title: string, suites: Array<{ SpecReports: SpecReport[] | null }>): { counts: SanityCounts; lines: string[] } {
  const reports = suites.flatMap(({ SpecReports }) => SpecReports ?? [])
  const specs = reports.filter(isSpec)
  const passed = specs.filter(({ State }) => State === 'passed')
  const notRun = specs.filter(({ State }) => State === 'skipped' || State === 'pending')
  // Set-up and clean-up are no specs, and can fail.
  const failed = reports.filter((report) => !['passed', 'skipped', 'pending'].includes(report.State))
  const counts = { ran: specs.length - notRun.length, passed: passed.length, failed: failed.length, skipped: notRun.length }
  const lines = [
    ...failed.map((report) => `  FAILED ${nameOf(report)}: ${report.Failure?.Message.trim().replaceAll('\n', '\n    ')}`),
    ...notRun.map((report) => `  skipped ${nameOf(report)}: ${report.Failure?.Message || 'pending in csi-sanity itself'}`),
    `csi-sanity, ${title}: ${counts.ran} ran of ${specs.length}, ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`,
  ]
  return { counts, lines }
}
