import { alreadyExists, invalidArgument, notFound, resourceExhausted } from '../errors.ts'
import { fits, isWithin, required, requiredAccesses, sizeOf } from '../fields.ts'
import type { CreateVolumeRequest, CreateVolumeResponse, VolumeContentSource } from '../generated/csi.ts'
import { isSnapshotId, isVolumeId, volumeId } from '../ids.ts'
import type { ControllerParts } from '../plugin.ts'
import type { VolumeWish } from '../provider.ts'
import { toCsiVolume } from './messages.ts'

export async function createVolume(
  request: CreateVolumeRequest,
  parts: ControllerParts,
  signal: AbortSignal,
): Promise<CreateVolumeResponse> {
  const { provider, topology } = parts
  const id = volumeId(required('name', request.name))
  requiredAccesses(request.volumeCapabilities)
  let bytes = sizeOf(request.capacityRange)
  const source = sourceOf(request.volumeContentSource)
  if (topology !== null && !isReachable(request, topology.key, topology.value)) {
    throw resourceExhausted(`volumes made here are on node ${topology.value}, which accessibility_requirements does not allow`)
  }

  const existing = await provider.volume(id, signal)
  // A provider that was just started knows what it can do when it has been asked something.
  if (source !== undefined) checkCopies(source, parts)
  if (existing !== undefined) {
    if (!fits(existing.bytes, request.capacityRange)) {
      throw alreadyExists(`volume "${request.name}" exists with ${existing.bytes} bytes; delete it, or choose another name`)
    }
    if (existing.source?.id !== source?.id) {
      throw alreadyExists(
        `volume "${request.name}" exists with the source ${existing.source?.id ?? '(none)'}; delete it, or choose another name`,
      )
    }
    // Asked again all the same: the call before may have died half way, and the provider completes it.
    bytes = existing.bytes
  }
  if (source !== undefined) bytes = await checkedSize(source, bytes, request, parts, signal)
  const wish: VolumeWish = { id, bytes, parameters: request.parameters, ...(source === undefined ? {} : { source }) }
  return { volume: toCsiVolume(await provider.createVolume(wish, signal), topology) }
}

/** Ids that the call works on: a source must not go while it is copied. */
export function locksOfCreateVolume({ name, volumeContentSource }: CreateVolumeRequest): Array<string | undefined> {
  const type = volumeContentSource?.type
  const sourceId = type?.$case === 'snapshot' ? type.value.snapshotId : type?.value.volumeId
  return [name === '' ? undefined : volumeId(name), sourceId]
}

function sourceOf(content: VolumeContentSource | undefined): VolumeWish['source'] {
  if (content === undefined) return undefined
  const { type } = content
  if (type === undefined) throw invalidArgument('volume_content_source has neither a snapshot nor a volume')
  if (type.$case === 'snapshot') {
    const id = required('volume_content_source.snapshot.snapshot_id', type.value.snapshotId)
    if (!isSnapshotId(id)) throw notFound(`there is no snapshot ${id}`)
    return { kind: 'snapshot', id }
  }
  const id = required('volume_content_source.volume.volume_id', type.value.volumeId)
  if (!isVolumeId(id)) throw notFound(`there is no volume ${id}`)
  return { kind: 'volume', id }
}

function checkCopies({ kind }: NonNullable<VolumeWish['source']>, { provider }: ControllerParts): void {
  if (kind === 'snapshot' && !provider.can.snapshots) {
    throw invalidArgument(`volumes cannot be made from snapshots with the provider ${provider.name}`)
  }
  if (kind === 'volume' && !provider.can.clones) throw invalidArgument(`volumes cannot be cloned with the provider ${provider.name}`)
}

/** A copy is at least as large as its source. */
async function checkedSize(
  source: NonNullable<VolumeWish['source']>,
  bytes: bigint,
  { capacityRange }: CreateVolumeRequest,
  { provider }: ControllerParts,
  signal: AbortSignal,
): Promise<bigint> {
  const from =
    source.kind === 'volume'
      ? await provider.volume(source.id, signal)
      : (await provider.snapshots(signal)).find(({ id }) => id === source.id)
  if (from === undefined) throw notFound(`there is no ${source.kind} ${source.id} to copy from`)
  if (bytes >= from.bytes) return bytes
  if (!fits(from.bytes, capacityRange) || (capacityRange?.requiredBytes ?? 0n) > 0n) {
    throw invalidArgument(`${source.kind} ${source.id} has ${from.bytes} bytes; ask for at least as many`)
  }
  return from.bytes
}

function isReachable({ accessibilityRequirements }: CreateVolumeRequest, key: string, value: string): boolean {
  const { requisite = [], preferred = [] } = accessibilityRequirements ?? {}
  const allowed = requisite.length > 0 ? requisite : preferred
  return allowed.length === 0 || allowed.some((place) => isWithin(place, key, value))
}
