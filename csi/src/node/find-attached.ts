/** The attached device of a request's volume. */
import { notFound } from '../errors.ts'
import { required } from '../fields.ts'
import { isVolumeId } from '../ids.ts'
import type { AttachedDevice, Attacher } from '../provider.ts'

export async function findAttached(id: string, attacher: Attacher): Promise<AttachedDevice> {
  const device = isVolumeId(required('volume_id', id)) ? await attacher.attached(id) : undefined
  if (device === undefined) throw notFound(`volume ${id} is not attached to this node; stage it first`)
  return device
}
