/**
 * The Controller service: which handler answers which call, and what it locks.
 */
import type { UntypedServiceImplementation } from '@grpc/grpc-js'
import type { CallLayer } from '../calls.ts'
import type { ControllerServer } from '../generated/csi.ts'
import type { ControllerParts } from '../plugin.ts'
import { createSnapshot, locksOfCreateSnapshot } from './create-snapshot.ts'
import { createVolume, locksOfCreateVolume } from './create-volume.ts'
import { deleteSnapshot } from './delete-snapshot.ts'
import { deleteVolume } from './delete-volume.ts'
import { expandVolume } from './expand-volume.ts'
import { getCapabilities } from './get-capabilities.ts'
import { getCapacity } from './get-capacity.ts'
import { getSnapshot } from './get-snapshot.ts'
import { getVolume } from './get-volume.ts'
import { listSnapshots } from './list-snapshots.ts'
import { listVolumes } from './list-volumes.ts'
import { publishVolume } from './publish-volume.ts'
import { unpublishVolume } from './unpublish-volume.ts'
import { validateVolumeCapabilities } from './validate-volume-capabilities.ts'

/** Calls that are not here answer UNIMPLEMENTED: ControllerModifyVolume. */
type Served = Omit<ControllerServer, 'controllerModifyVolume'>

export function controllerService(layer: CallLayer, parts: ControllerParts): UntypedServiceImplementation {
  const volume = ({ volumeId }: { volumeId: string }): string[] => [volumeId]
  const snapshot = ({ snapshotId }: { snapshotId: string }): string[] => [snapshotId]
  const served: Served = {
    createVolume: layer.unary('CreateVolume', (request, signal) => createVolume(request, parts, signal), locksOfCreateVolume),
    deleteVolume: layer.unary('DeleteVolume', (request, signal) => deleteVolume(request, parts, signal), volume),
    controllerPublishVolume: layer.unary('ControllerPublishVolume', (request, signal) => publishVolume(request, parts, signal), volume),
    controllerUnpublishVolume: layer.unary(
      'ControllerUnpublishVolume',
      (request, signal) => unpublishVolume(request, parts, signal),
      volume,
    ),
    validateVolumeCapabilities: layer.unary('ValidateVolumeCapabilities', (request, signal) =>
      validateVolumeCapabilities(request, parts, signal),
    ),
    listVolumes: layer.unary('ListVolumes', (request, signal) => listVolumes(request, parts, signal)),
    controllerGetVolume: layer.unary('ControllerGetVolume', (request, signal) => getVolume(request, parts, signal)),
    getCapacity: layer.unary('GetCapacity', (request, signal) => getCapacity(request, parts, signal)),
    controllerExpandVolume: layer.unary('ControllerExpandVolume', (request, signal) => expandVolume(request, parts, signal), volume),
    createSnapshot: layer.unary('CreateSnapshot', (request, signal) => createSnapshot(request, parts, signal), locksOfCreateSnapshot),
    deleteSnapshot: layer.unary('DeleteSnapshot', (request, signal) => deleteSnapshot(request, parts, signal), snapshot),
    listSnapshots: layer.unary('ListSnapshots', (request, signal) => listSnapshots(request, parts, signal)),
    getSnapshot: layer.unary('GetSnapshot', (request, signal) => getSnapshot(request, parts, signal)),
    controllerGetCapabilities: layer.unary('ControllerGetCapabilities', (_request, signal) => getCapabilities(parts, signal)),
  } as Served
  return served
}
