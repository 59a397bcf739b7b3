import test from 'ava'
import { hasFailed, parseMountinfo } from '../../src/node/mountinfo.ts'

const TABLE = String.raw`22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
97 22 259:3 / /var/lib/kubelet/with\040space rw,noatime shared:5 master:7 - xfs /dev/nvme0n1 rw,attr2
98 22 0:5 /ublkb524288 /var/lib/kubelet/block\134path rw - devtmpfs udev rw,size=4k
99 22 0:48 /sub /mnt/b ro,relatime - btrfs /dev/ublkb7 ro,space_cache=v2
`

test('the table of mounts is read with its escapes and its optional fields', (t) => {
  const [root, xfs, block, btrfs] = parseMountinfo(TABLE)
  t.like(root, { device: '254:1', path: '/', filesystem: 'ext4', source: '/dev/vda1', superOptions: ['rw', 'errors=remount-ro'] })
  t.like(xfs, {
    device: '259:3',
    path: '/var/lib/kubelet/with space',
    filesystem: 'xfs',
    source: '/dev/nvme0n1',
    options: ['rw', 'noatime'],
  })
  t.like(block, { root: '/ublkb524288', path: '/var/lib/kubelet/block\\path', filesystem: 'devtmpfs' })
  t.like(btrfs, { root: '/sub', options: ['ro', 'relatime'], source: '/dev/ublkb7', superOptions: ['ro', 'space_cache=v2'] })
})

test('a file system that stopped writing by itself is told from one that was mounted so', (t) => {
  const [mount] = parseMountinfo('1 2 8:1 / /a rw - ext4 /dev/a rw')
  t.false(hasFailed(mount!))
  t.true(hasFailed({ ...mount!, superOptions: ['ro'] }))
  t.false(hasFailed({ ...mount!, superOptions: ['ro'], options: ['ro'] }))
  for (const option of ['emergency_ro', 'shutdown']) t.true(hasFailed({ ...mount!, superOptions: ['rw', option], options: ['ro'] }))
})
