/**
 * What the plugin and the daemon say to each other on the Unix socket: one request a connection, a line of JSON each way.
 *
 * What was asked goes on when the client leaves, since a copy may take longer than any call: a call that is made again is refused while
 * the first is at work, and then finds it done.
 */
import type { Socket } from 'node:net'
import type { status } from '@grpc/grpc-js'
import type { VolumeWish } from '../provider.ts'

/** A volume as the daemon tells it. Sizes are bytes. */
export interface VolumeInfo {
  id: string
  bytes: number
  source: NonNullable<VolumeWish['source']> | null
  publishedTo: string | null
}

export interface SnapshotInfo {
  id: string
  sourceId: string
  bytes: number
  createdAtMs: number
}

/** The device of an attached volume. */
export interface DeviceAnswer {
  path: string
  bytes: number
  diskseq: string
}

/** Each operation with what it takes and gives. */
export interface Operations {
  createVolume: [{ id: string; bytes: number; source: NonNullable<VolumeWish['source']> | null; overcommit: boolean }, VolumeInfo]
  deleteVolume: [{ id: string }, null]
  volumes: [Record<string, never>, VolumeInfo[]]
  volume: [{ id: string }, VolumeInfo | null]
  expandVolume: [{ id: string; bytes: number }, VolumeInfo]
  capacity: [Record<string, never>, { free: number; available: number }]
  createSnapshot: [{ id: string; sourceId: string }, SnapshotInfo]
  deleteSnapshot: [{ id: string }, null]
  snapshots: [Record<string, never>, SnapshotInfo[]]
  publish: [{ id: string; nodeId: string }, null]
  unpublish: [{ id: string; nodeId: string | null }, null]
  attach: [{ id: string; nodeId: string }, DeviceAnswer]
  detach: [{ id: string }, null]
  attached: [{ id: string }, DeviceAnswer | null]
  /** Whether disks in use can be resized, which is the kernel's to say. */
  ping: [Record<string, never>, { resizesInUse: boolean }]
}

export type OperationName = keyof Operations
export type Arguments<Name extends OperationName> = Operations[Name][0]
export type Answer<Name extends OperationName> = Operations[Name][1]

export interface RequestLine {
  operation: OperationName
  arguments: unknown
}

export type AnswerLine = { value: unknown } | { error: { code: status; message: string } }

/** Longest line that is read. A list of ten thousand volumes has two megabytes. */
const MAX_LINE_CHARS = 64 << 20

/** The first line that comes. */
export function readLine(connection: Socket): Promise<string> {
  let text = ''
  connection.setEncoding('utf8')
  return new Promise((resolve, reject) => {
    connection.on('data', (chunk: string) => {
      text += chunk
      if (text.includes('\n')) resolve(text.slice(0, text.indexOf('\n')))
      else if (text.length > MAX_LINE_CHARS) connection.destroy()
    })
    connection.once('error', reject)
    connection.once('close', () => reject(new Error('the connection was closed before a whole line had come')))
    connection.once('end', () => reject(new Error('the connection was ended before a whole line had come')))
  })
}
