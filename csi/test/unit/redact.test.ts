import { readFileSync } from 'node:fs'
import test from 'ava'
import { redacted, SECRET_FIELDS } from '../../src/redact.ts'

test('every field that the specification marks as secret is hidden', (t) => {
  const proto = readFileSync(new URL('../../proto/csi.proto', import.meta.url), 'utf8')
  const marked = [...proto.matchAll(/(\w+)\s*=\s*\d+\s*\[[^\]]*\(csi_secret\)\s*=\s*true/g)].map(([, name]) => name)
  t.true(marked.length > 10)
  t.deepEqual(new Set(marked), new Set(SECRET_FIELDS))
})

test('secrets keep their keys and lose their values, at any depth; the rest stays', (t) => {
  const request = { volumeId: 'v', secrets: { key: 'hunter2' }, nested: [{ secrets: { other: 'x' }, bytes: 5n }], at: new Date(0) }
  t.deepEqual(redacted(request), {
    volumeId: 'v',
    secrets: { key: '***' },
    nested: [{ secrets: { other: '***' }, bytes: '5' }],
    at: new Date(0),
  })
})
