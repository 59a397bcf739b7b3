/** The controller's calls over a router: what depends on the router being asked first. */
import test from 'ava'
import { createVolume } from '../../src/controller/create-volume.ts'
import { CreateVolumeRequest, VolumeCapability_AccessMode_Mode } from '../../src/generated/csi.ts'
import { volumeId } from '../../src/ids.ts'
import { lab, soon } from './harness.ts'

const requestOf = (name: string, sourceId?: string): CreateVolumeRequest =>
  CreateVolumeRequest.fromPartial({
    name,
    capacityRange: { requiredBytes: 8n << 20n },
    volumeCapabilities: [
      {
        accessType: { $case: 'mount', value: { fsType: 'ext4' } },
        accessMode: { mode: VolumeCapability_AccessMode_Mode.SINGLE_NODE_WRITER },
      },
    ],
    ...(sourceId === undefined ? {} : { volumeContentSource: { type: { $case: 'volume', value: { volumeId: sourceId } } } }),
  })

test('a controller that was just started clones, though nobody asked for its capabilities', async (t) => {
  const { provider, another } = await lab(t)
  const parts = { provider, maxVolumes: 0, onlyNode: null, topology: null }
  await createVolume(requestOf('one'), parts, soon())
  const { volume } = await createVolume(requestOf('two', volumeId('one')), { ...parts, provider: another() }, soon())
  t.is(volume?.capacityBytes, 8n << 20n)
})

test('without the fence a clone is refused', async (t) => {
  const { provider } = await lab(t, {}, { fence: 'off' })
  const parts = { provider, maxVolumes: 0, onlyNode: null, topology: null }
  await createVolume(requestOf('one'), parts, soon())
  await t.throwsAsync(createVolume(requestOf('two', volumeId('one')), parts, soon()), { message: /cannot be cloned with the provider rds/ })
})
