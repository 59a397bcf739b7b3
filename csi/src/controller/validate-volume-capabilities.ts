import { invalidArgument } from '../errors.ts'
import { unsupported } from '../fields.ts'
import type { ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse } from '../generated/csi.ts'
import type { ControllerParts } from '../plugin.ts'
import { findVolume } from './find-volume.ts'

export async function validateVolumeCapabilities(
  request: ValidateVolumeCapabilitiesRequest,
  { provider }: ControllerParts,
  signal: AbortSignal,
): Promise<ValidateVolumeCapabilitiesResponse> {
  const { volumeCapabilities, volumeContext, parameters, mutableParameters } = request
  if (request.volumeId === '') throw invalidArgument('volume_id is missing')
  if (volumeCapabilities.length === 0) throw invalidArgument('volume_capabilities is missing')
  await findVolume(request.volumeId, provider, signal)
  const problem = volumeCapabilities.map(unsupported).find((text) => text !== null)
  if (problem !== undefined) return { confirmed: undefined, message: problem }
  return { confirmed: { volumeCapabilities, volumeContext, parameters, mutableParameters }, message: '' }
}
