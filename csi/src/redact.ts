/**
 * Requests as they may be logged: what the specification marks as `csi_secret` is hidden.
 */

/** The fields with `(csi_secret) = true` in csi.proto, by their names here. A test compares them with the file. */
export const SECRET_FIELDS: ReadonlySet<string> = new Set(['secrets'])

const HIDDEN = '***'

/** A copy without secrets; big numbers become text, which JSON can carry. */
export function redacted(value: unknown): unknown {
  if (typeof value === 'bigint') return value.toString()
  if (Array.isArray(value)) return value.map(redacted)
  if (value === null || typeof value !== 'object' || value instanceof Date) return value
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, SECRET_FIELDS.has(name) ? hidden(field) : redacted(field)]))
}

/** The keys stay: which secrets came helps, and what is in them is not needed. */
function hidden(field: unknown): unknown {
  return field === null || typeof field !== 'object' ? HIDDEN : Object.fromEntries(Object.keys(field).map((key) => [key, HIDDEN]))
}
