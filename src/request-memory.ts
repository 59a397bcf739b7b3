/**
 * What the memory of a device's requests is like: its alignment and its segments. Their names, rules and defaults.
 *
 * Thread: any.
 */
import { invalidType, outOfRange } from './errors.ts'
import type { DeviceSpec } from './native.ts'
import { parseSize, type Size } from './size.ts'

/**
 * Options of a device about the memory of its requests (Linux 6.15), as /sys/block/ublkbN/queue shows them. What users give with O_DIRECT
 * must be aligned, and the kernel splits what has more or longer segments.
 */
export interface RequestMemoryOptions {
  /**
   * Alignment of that memory in bytes, a power of two from 2 to 4096. Default 4; in the zero-copy modes, where the target gets the memory
   * itself, at least what its files want of O_DIRECT.
   */
  dmaAlignment?: number
  /** Most pieces of memory that a request may consist of, 1 to 65535; default 65535. */
  maxSegments?: number
  /** Longest of them, 4096 bytes to 4 GiB - 1, which is the default. */
  maxSegmentSize?: Size
  /** A multiple of this that no piece crosses: a power of two from 4096 to 4 GiB, which is the default. */
  segmentBoundary?: Size
}

/** The same, checked. */
export type CheckedRequestMemory = Pick<DeviceSpec, 'dmaAlignBytes' | 'segments'>

export const REQUEST_MEMORY_NAMES = ['dmaAlignment', 'maxSegments', 'maxSegmentSize', 'segmentBoundary'] as const

const MAX_DMA_ALIGNMENT = 4096
const MAX_SEGMENTS = 65_535
/** UBLK_MIN_SEGMENT_SIZE in ublk_cmd.h. */
const MIN_SEGMENT_BYTES = 4096
const MAX_SEGMENT_BYTES = 2 ** 32 - 1
const MAX_BOUNDARY_BYTES = 2 ** 32

export function checkRequestMemory(options: RequestMemoryOptions): CheckedRequestMemory {
  const { dmaAlignment, maxSegments, maxSegmentSize, segmentBoundary } = options
  const isFree = maxSegments === undefined && maxSegmentSize === undefined && segmentBoundary === undefined
  return {
    dmaAlignBytes: dmaAlignment === undefined ? null : checkAlignment(dmaAlignment),
    segments: isFree
      ? null
      : {
          maxCount: maxSegments === undefined ? MAX_SEGMENTS : checkCount(maxSegments),
          maxBytes: maxSegmentSize === undefined ? MAX_SEGMENT_BYTES : checkSegmentBytes(maxSegmentSize),
          boundaryBytes: segmentBoundary === undefined ? MAX_BOUNDARY_BYTES : checkBoundary(segmentBoundary),
        },
  }
}

function checkAlignment(value: number): number {
  if (typeof value !== 'number') throw invalidType('dmaAlignment', 'a number', value)
  // The block layer would take 512 for 1.
  if (!isPowerOfTwo(value) || value < 2 || value > MAX_DMA_ALIGNMENT) {
    throw outOfRange('dmaAlignment', `a power of two from 2 to ${MAX_DMA_ALIGNMENT}`, value)
  }
  return value
}

function checkCount(value: number): number {
  if (typeof value !== 'number') throw invalidType('maxSegments', 'a number', value)
  if (!Number.isInteger(value) || value < 1 || value > MAX_SEGMENTS) {
    throw outOfRange('maxSegments', `a whole number from 1 to ${MAX_SEGMENTS}`, value)
  }
  return value
}

function checkSegmentBytes(value: Size): number {
  const bytes = parseSize(value, 'maxSegmentSize')
  if (bytes < MIN_SEGMENT_BYTES || bytes > MAX_SEGMENT_BYTES) {
    throw outOfRange('maxSegmentSize', `${MIN_SEGMENT_BYTES} to ${MAX_SEGMENT_BYTES} bytes`, value)
  }
  return bytes
}

function checkBoundary(value: Size): number {
  const bytes = parseSize(value, 'segmentBoundary')
  if (!isPowerOfTwo(bytes) || bytes < MIN_SEGMENT_BYTES || bytes > MAX_BOUNDARY_BYTES) {
    throw outOfRange('segmentBoundary', `a power of two from ${MIN_SEGMENT_BYTES} to ${MAX_BOUNDARY_BYTES} (4 GiB)`, value)
  }
  return bytes
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value)) && 2 ** Math.log2(value) === value
}
