/** Paths of options: absolute from here on, whatever folder the process goes to. Thread: any. */
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { invalidType, invalidValue } from './errors.ts'

export function checkPath(name: string, path: string | URL, what = 'the path of a file or block device'): string {
  if (typeof path !== 'string' && !(path instanceof URL)) throw invalidType(name, 'a string or a file: URL', path)
  if (path === '') throw invalidValue(name, what, path)
  return path instanceof URL ? fileURLToPath(path) : resolve(path)
}
