/**
 * Names by which Kubernetes knows this driver. Part of every volume made: they never change.
 */
import type { VolumeProvider } from './provider.ts'

/** Name of the plugin, in CSIDriver, StorageClass and the kubelet's directories: one for each provider, so that a node can run both. */
export const driverName = (provider: VolumeProvider['name']): string => `${provider}.csi.ublk.io`

/** Label of a node, and key of accessible topology: where a volume can be attached. */
export const topologyKey = (provider: VolumeProvider['name']): string => `${driverName(provider)}/node`
