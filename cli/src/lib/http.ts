/**
 * node:http, for those who need it when they need it: most verbs do not.
 *
 * Not by `import`, which reads every name that the module exports and so loads undici, at the cost of a sixth of the program's start.
 */

import process from 'node:process'

export function http(): typeof import('node:http') {
  return process.getBuiltinModule('node:http')
}
