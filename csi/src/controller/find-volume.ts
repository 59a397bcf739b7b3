/** The volume of a request: checked, and there. */
import { notFound } from '../errors.ts'
import { required } from '../fields.ts'
import { isVolumeId } from '../ids.ts'
import type { Volume, VolumeProvider } from '../provider.ts'

export async function findVolume(id: string, provider: VolumeProvider, signal: AbortSignal, field = 'volume_id'): Promise<Volume> {
  const volume = isVolumeId(required(field, id)) ? await provider.volume(id, signal) : undefined
  if (volume === undefined) throw notFound(`there is no volume ${id}`)
  return volume
}
