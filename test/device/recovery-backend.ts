/** A backend in JavaScript whose bytes outlive its process: a file. `failsToOpen` is the name of a file; while that exists it does not open. */
import { closeSync, existsSync, fdatasyncSync, openSync, readSync, writeSync } from 'node:fs'
import type { Backend } from '../../src/index.ts'

export interface FileBackendOptions {
  path: string
  size: number
  failsToOpen?: string
}

export default function fileBackend(given: object): Backend {
  const { path, size, failsToOpen } = given as FileBackendOptions
  let fd = -1
  return {
    size,
    open() {
      if (failsToOpen !== undefined && existsSync(failsToOpen)) throw new Error('the store is not there yet')
      fd = openSync(path, 'r+')
    },
    close() {
      closeSync(fd)
    },
    read: (buffer, offset) => readSync(fd, buffer, 0, buffer.length, offset),
    write: (buffer, offset) => writeSync(fd, buffer, 0, buffer.length, offset),
    flush: () => fdatasyncSync(fd),
  }
}
