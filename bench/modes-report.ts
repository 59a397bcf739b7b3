/**
 * The table of every way of the driver: kublk's rate, and as shares of it kublk's second server and our two.
 *
 * Figures of a family vary alike: what nine of ten pairs of kublk's two servers differ by at most is what a figure of the family cannot tell.
 */
import { median, table } from './markdown.ts'
import { type ModeFigure, modeFigures } from './modes.ts'
import { show, valuesOf } from './readings.ts'
import type { Results } from './results.ts'

/** A figure that was measured; shares are of kublk's rate. */
interface Row {
  figure: ModeFigure
  kublk: number
  again: number
  ours: number
  yielding: number
}

/** Of the differences between kublk's two servers; now and then one of them meets requests in another pattern, which is no measure for the rest. */
const TYPICAL = 0.9

const HEAD = ['figure', 'kublk', 'kublk again', 'ours', 'ours, `preempt: false`', 'ours ≥ kublk']

export function modesReport(results: Results): string[] {
  const rows = modeFigures.flatMap((figure) => rowOf(results, figure) ?? [])
  const noise = noiseOf(rows)
  const cells = rows.map((row) => {
    const shares = [row.again, row.ours, row.yielding].map((share) => share.toFixed(3))
    return [row.figure.title, show(row.kublk, row.figure.measure), ...shares, verdict(row, noise.get(row.figure.family) ?? 0)]
  })
  const spread = [...noise].map(([family, share]) => `${family} ${percent(share)}`)
  return [
    table(HEAD, cells),
    `Nine of ten pairs of kublk's servers differ by at most: ${spread.join(', ')}.`,
    `Mean of all: ${meansOf(rows)}.`,
  ]
}

function rowOf(results: Results, figure: ModeFigure): Row | null {
  const of = (who: keyof ModeFigure['sides']): number | null => median(valuesOf(results, figure.sides[who], figure.measure))
  const [kublk, again, ours, yielding] = [of('kublk'), of('again'), of('ours'), of('yielding')]
  if (kublk === null || again === null || ours === null || yielding === null) return null
  return { figure, kublk, again: again / kublk, ours: ours / kublk, yielding: yielding / kublk }
}

/** Rows by the family of their figures. */
function familiesOf(rows: Row[]): Array<[family: string, members: Row[]]> {
  const families = [...new Set(rows.map(({ figure }) => figure.family))]
  return families.map((family) => [family, rows.filter(({ figure }) => figure.family === family)])
}

function noiseOf(rows: Row[]): Map<string, number> {
  return new Map(
    familiesOf(rows).map(([family, members]) => {
      const differences = members.map(({ again }) => Math.abs(1 - again)).toSorted((a, b) => a - b)
      return [family, differences[Math.ceil(TYPICAL * differences.length) - 1] ?? 0]
    }),
  )
}

function verdict({ ours, yielding }: Row, noise: number): string {
  if (ours >= 1) return 'yes'
  const short = `${percent(1 - ours)} short`
  if (1 - ours <= noise) return `within the noise (${short})`
  return yielding >= 1 ? `with \`preempt: false\`; else ${short}` : `**no**, ${short}`
}

function meansOf(rows: Row[]): string {
  return familiesOf(rows)
    .map(([family, members]) => {
      const mean = (share: 'again' | 'ours' | 'yielding'): string =>
        (members.reduce((sum, row) => sum + row[share], 0) / members.length).toFixed(3)
      return `${family} kublk again ${mean('again')}, ours ${mean('ours')}, ours with \`preempt: false\` ${mean('yielding')}`
    })
    .join('; ')
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`
}
