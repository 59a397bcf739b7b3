/**
 * Ids of volumes and snapshots. They are derived from the names that the caller chose, so that asking again finds the same one, and
 * they are the only text that ever becomes part of a path, a command or an NQN.
 */
import { createHash } from 'node:crypto'

/** RFC 9562 name-based UUIDs need a namespace: one each, so that a volume and a snapshot of the same name differ in their UUIDs too. */
const VOLUME_NAMESPACE = 'd7b3f3a4-4b0e-5f64-9a4c-6d2f0b1c7e51'
const SNAPSHOT_NAMESPACE = '6a0c1f5e-93d8-5c27-8b1d-2f7e4a9d3c60'
const HOST_NAMESPACE = '0e4f6d2b-7a15-5b83-9c60-d1b8a3e57f94'

const UUID = '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}'
const VOLUME_ID = new RegExp(`^pvc-${UUID}$`)
const SNAPSHOT_ID = new RegExp(`^snap-${UUID}$`)

/** Vendor part of the NQNs that this driver makes, and the only ones that it ever disconnects. */
export const NQN_PREFIX = 'nqn.2000-02.com.mikrotik:'

/** `pvc-<uuid>`, from the name alone. */
export const volumeId = (name: string): string => `pvc-${uuid5(VOLUME_NAMESPACE, name)}`

/** `snap-<uuid>`, from the name alone: the same name with another source must be noticed. */
export const snapshotId = (name: string): string => `snap-${uuid5(SNAPSHOT_NAMESPACE, name)}`

export const isVolumeId = (id: string): boolean => VOLUME_ID.test(id)
export const isSnapshotId = (id: string): boolean => SNAPSHOT_ID.test(id)

/** The NVMe subsystem of a volume. */
export const nqnOf = (id: string): string => `${NQN_PREFIX}${id}`

/** Host id of an NVMe host: the kernel wants one for each host NQN, always the same. */
export const hostIdOf = (hostNqn: string): string => uuid5(HOST_NAMESPACE, hostNqn)

/** RFC 9562, 5.5: SHA-1 of namespace and name, with version and variant set. */
function uuid5(namespace: string, name: string): string {
  const hash = createHash('sha1')
    .update(Buffer.from(namespace.replaceAll('-', ''), 'hex'))
    .update(name, 'utf8')
    .digest()
    .subarray(0, 16)
  hash[6] = (hash[6]! & 0x0f) | 0x50
  hash[8] = (hash[8]! & 0x3f) | 0x80
  return hash.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
