/** Calls a plugin on its socket as a sidecar does, with promises. */

import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js'
import * as csi from '../../src/generated/csi.ts'

/** A message of the generated module. */
interface Message {
  fromPartial(value: object): object
  encode(value: object): { finish(): Uint8Array }
  decode(bytes: Uint8Array): object
}

const { VolumeCapability_AccessMode_Mode: Mode } = csi
const SERVICES = { controller: csi.ControllerService, node: csi.NodeService, identity: csi.IdentityService } as const

export class CsiClient {
  readonly #client: Client

  constructor(socket: string) {
    this.#client = new Client(`unix://${socket}`, credentials.createInsecure())
  }

  /** `call('controller', 'createVolume', {…})`; fields that are left out are empty. Rejects with grpc-js's `ServiceError`. */
  call<Response = Record<string, never>>(
    service: keyof typeof SERVICES,
    method: string,
    request: object,
    limitMs = 60_000,
  ): Promise<Response> {
    const { path } = (SERVICES[service] as unknown as Record<string, { path: string }>)[method]!
    const name = path.split('/')[2]!
    const messages = csi as unknown as Record<string, Message>
    const [given, answer] = [messages[`${name}Request`]!, messages[`${name}Response`]!]
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        path,
        (value: object) => Buffer.from(given.encode(value).finish()),
        (bytes: Buffer) => answer.decode(bytes) as Response,
        given.fromPartial(request),
        new Metadata(),
        { deadline: Date.now() + limitMs },
        (error: ServiceError | null, response?: Response) => (error === null ? resolve(response!) : reject(error)),
      )
    })
  }

  close(): void {
    this.#client.close()
  }
}

/** What a caller may make again: the plugin starts, or works on what it was told before. */
const TRANSIENT: readonly number[] = [status.UNAVAILABLE, status.ABORTED, status.DEADLINE_EXCEEDED, status.CANCELLED]
export const isTransient = (error: unknown): boolean => TRANSIENT.includes((error as ServiceError).code)

export const mountAccess = (
  fsType = 'ext4',
  mode: csi.VolumeCapability_AccessMode_Mode = Mode.SINGLE_NODE_WRITER,
  mountFlags: string[] = [],
): csi.VolumeCapability => ({
  accessType: { $case: 'mount', value: { fsType, mountFlags, volumeMountGroup: '' } },
  accessMode: { mode },
})

export const blockAccess = (mode: csi.VolumeCapability_AccessMode_Mode = Mode.SINGLE_NODE_WRITER): csi.VolumeCapability => ({
  accessType: { $case: 'block', value: {} },
  accessMode: { mode },
})
