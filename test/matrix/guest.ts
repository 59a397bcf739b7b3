/**
 * Runs the cells of one kernel, on that kernel, and prints a line of JSON for each:
 * node test/matrix/guest.ts [--target NAME] [--pairs] [--history OPERATIONS]
 */
import { stdout } from 'node:process'
import { parseArgs } from 'node:util'
import { createDevice, type Device, listDevices } from '../../src/index.ts'
import { kernelFlags, withDirectory } from '../device/support.ts'
import { Checker } from './checker.ts'
import {
  allGroups,
  type CellResult,
  type Group,
  LAYOUTS,
  MODES,
  missingFlags,
  type Operation,
  operationsIn,
  operationsOf,
  pairwise,
  SHARED_MEMORY,
  targetOf,
} from './table.ts'
import { makeSharedMemory, makeTarget } from './targets.ts'

const CELL_LIMIT_MS = 30_000
const HISTORY_LIMIT_MS = 300_000
/** Odd on purpose: the last request of any size is cut off. */
const sizeFor = (blockSize: number): number => (1 << 20) + 3 * blockSize

const { values } = parseArgs({
  options: { target: { type: 'string' }, pairs: { type: 'boolean', default: false }, history: { type: 'string', default: '0' } },
})
const historyLength = Number(values.history)
const here = await kernelFlags()
const possible = allGroups().filter(({ target }) => values.target === undefined || target === values.target)
const groups = values.pairs ? pairwise(possible.filter((group) => missingFlags(group, (flag) => here.has(flag)).length === 0)) : possible

/** Devices whose histories are recorded: every mode and layout of memory, where requests meet without a file system between them. */
const isForHistory = ({ target, blockSize }: Group): boolean =>
  historyLength > 0 && target === 'mem' && (blockSize === 4096 || values.pairs)

let seed = 1

async function runCell(device: Device, group: Group, operation: Operation, image: string | undefined): Promise<number> {
  const { keeps } = targetOf(group.target)
  const before = device.stats().operations
  const where = image === undefined ? '' : ` image=${image}`
  const check = `${checkOf(device, group, operation)} seed=${seed++}${where}${sharedBy(group)}`
  const requests = await checker.check(check, CELL_LIMIT_MS)
  const after = device.stats().operations
  const failed = Object.entries(after).filter(([, { errors }]) => errors > 0)
  if (failed.length > 0)
    throw new Error(`the server failed requests: ${failed.map(([name, { errors }]) => `${errors} ${name}`).join(', ')}`)
  const arrived = ARRIVES[operation]
  const mustArrive = arrived !== 'flush' || keeps === 'image' || targetOf(group.target).isJavaScript
  if (mustArrive && after[arrived].requests === before[arrived].requests) throw new Error(`no ${arrived} arrived at the server`)
  return requests
}

/** Which check the cell is, and of what. */
function checkOf({ path }: Device, { target, mode }: Group, operation: Operation): string {
  if (operation === 'protection') return `protection ${path}`
  const { keeps, isZoned } = targetOf(target)
  if (isZoned) return `zones ${path} ${operation}`
  const forgets = MODES[mode]?.leavesData === true ? 'anything' : 'zeroes'
  return `sequence ${path} ${operation} ${keeps === 'nothing' ? forgets : 'data'}`
}

function runHistory(device: Device, group: Group): Promise<number> {
  const isAtomic = LAYOUTS[group.layout]?.isParallel || MODES[group.mode]?.isParallel ? 0 : 1
  const line = `history ${device.path} seed=${seed++} operations=${historyLength} atomic=${isAtomic}${sharedBy(group)}`
  return checker.check(line, HISTORY_LIMIT_MS)
}

const sharedBy = ({ mode }: Group): string => (mode === 'shmem' ? ` shared=${SHARED_MEMORY}` : '')

/** What the server must have seen. */
const ARRIVES: Record<Operation, 'read' | 'write' | 'flush' | 'discard' | 'writeZeroes'> = {
  read: 'read',
  write: 'write',
  flush: 'flush',
  fua: 'write',
  discard: 'discard',
  'write-zeroes': 'writeZeroes',
  mixed: 'write',
  'zone-commands': 'write',
  protection: 'read',
}

async function openDevice(group: Group, directory: string): Promise<{ device: Device; image: string | undefined }> {
  const { backend, image, ...extra } = await makeTarget[group.target](sizeFor(group.blockSize), directory)
  const options = { ...MODES[group.mode]?.options, ...LAYOUTS[group.layout]?.options, ...extra }
  const device = await createDevice({ backend, blockSize: group.blockSize, depth: 16, maxIoBytes: '64KiB', ...options })
  return { device, image }
}

type Results = Map<CellResult['operation'], CellResult>

/** Runs the cells of a device, and puts into `results` what became of them. */
async function runGroup(group: Group, operations: Array<CellResult['operation']>, results: Results, directory: string): Promise<void> {
  const { device, image } = await openDevice(group, directory)
  try {
    const { dataPath } = await device.info()
    const wanted = MODES[group.mode]?.options.dataPath ?? 'shmem'
    if (dataPath !== wanted) throw new Error(`the device has ${dataPath} instead of ${wanted}`)
    for (const operation of operations) {
      const run = operation === 'history' ? runHistory(device, group) : runCell(device, group, operation, image)
      const outcome = await run.then(
        (requests) => ({ outcome: 'passed' as const, reason: '', requests }),
        (error: Error) => ({ outcome: 'failed' as const, reason: error.message, requests: 0 }),
      )
      results.set(operation, { group, operation, ...outcome })
    }
  } finally {
    await device.close()
  }
  const left = await listDevices()
  if (left.length > 0) throw new Error(`devices are left: ${left.map(({ id }) => id).join(', ')}`)
}

/** The same; a failure of the device itself is one of every cell that had none of its own. */
async function resultsOf(group: Group, operations: Array<CellResult['operation']>): Promise<CellResult[]> {
  const missing = missingFlags(group, (flag) => here.has(flag)).join(', ')
  if (missing !== '') return operations.map((operation) => ({ group, operation, outcome: 'skipped', reason: missing, requests: 0 }))
  const results: Results = new Map()
  await withDirectory((directory) => runGroup(group, operations, results, directory)).catch((error: Error) => {
    for (const operation of operations) {
      if (results.get(operation)?.outcome === 'failed') continue
      results.set(operation, { group, operation, outcome: 'failed', reason: error.message, requests: 0 })
    }
  })
  return [...results.values()]
}

let checker = new Checker()
if (here.has('SHMEM_ZC')) await makeSharedMemory()
for (const group of groups) {
  const operations = values.pairs ? operationsIn(groups, group) : operationsOf(group.target)
  const results = await resultsOf(group, isForHistory(group) ? [...operations, 'history'] : operations)
  for (const result of results) stdout.write(`${JSON.stringify(result)}\n`)
  if (results.some(({ reason }) => reason.startsWith('no answer'))) {
    void checker.close()
    checker = new Checker()
  }
}
await checker.close()
