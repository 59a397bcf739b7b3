/**
 * What the calls work with: the parts of one plugin process, made by main.ts.
 */
import type { Mounts } from './node/mounts.ts'
import type { Tools } from './node/tools.ts'
import type { Attacher, VolumeProvider } from './provider.ts'

/** Where volumes can be used: a label of the node. Null where any node can attach any volume. */
export type NodeTopology = { key: string; value: string } | null

export interface ControllerParts {
  provider: VolumeProvider
  /** Volumes that may be published to one node; 0 for no limit. */
  maxVolumes: number
  /** The node that there is, where it is known to be the only one. */
  onlyNode: string | null
  topology: NodeTopology
}

export interface NodeParts {
  nodeId: string
  /** 0 for no limit. */
  maxVolumes: number
  attacher: Attacher
  mounts: Mounts
  tools: Tools
  topology: NodeTopology
}

export interface Plugin {
  provider: VolumeProvider['name']
  controller: ControllerParts | null
  node: NodeParts | null
  topology: NodeTopology
  /** Whether a volume can be expanded while it is published. */
  expandsInUse(signal: AbortSignal): Promise<boolean>
}
