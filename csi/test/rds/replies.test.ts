import test from 'ava'
import fc from 'fast-check'
import { outcomeOf } from '../../src/rds/exchange.ts'
import { integer, rowsOfDetail, rowsOfJson } from '../../src/rds/replies.ts'
import { UnreadableReply } from '../../src/rds/retry.ts'
import { grouped, printDetail } from '../routeros/print.ts'

/** As an RDS2216 with RouterOS 7.24 prints it on a wide terminal; `…` of the notes left out. */
const WIDE = `Flags: B - BLOCK-DEVICE; t - NVME-TCP-EXPORT
31 Bt type=file slot="vm-storage-001" slot-default="" parent="" fs=- model="/raid10/vm-storage-001.img" size=1 099 511 627 776 mount-filesystem=no nvme-tcp-export=yes
      nvme-tcp-server-port=4420 nvme-tcp-server-nqn="nqn.2026-09.com.mikrotik:rds2216.vm-storage-001" nvme-tcp-server-allow-host-name="" file-path=/raid10/vm-storage-001.img file-size=1024.0GiB file-offset=0
`

/** As another device prints it on 80 columns, with what may be around it. */
const NARROW = `Flags: B - BLOCK-DEVICE; M - MOUNTED; t - NVME-TCP-EXPORT; \r
       g - GUID-PARTITION-TABLE\r
;;; pool of the cluster\r
26 BM  type=raid slot="raid10" fs=xfs size=16 003 143 565 312 free=14 789\r
       895 307 264 total-inodes=1 562 806 656 use=8% mount-point="raid10"\r
echo: system,error,critical login failure for user root from 192.0.2.7 via ssh\r
       state="clean"\r
27 Bt  ;;; a disabled note: slot="x"\r
       type=file slot="pvc-test-123" slot-default="" parent="" fs=-\r
               model="/storage-pool/a-very-long-path-that-does-not-fit-on-one-li\r
               ne.img" size=53 687 091 200 mount-filesystem=yes\r
               nvme-tcp-server-nqn="nqn.2000-02.com.mikrotik:pvc-test-123"\r
               file-path=/storage-pool/a-very-long-path-that-does-not-fit-on-one\r
               -line.img file-size=50.0GiB file-offset=0\r
`

test('a wide list, as captured', (t) => {
  const [row, ...more] = rowsOfDetail(WIDE)
  t.deepEqual(more, [])
  t.like(row, { type: 'file', slot: 'vm-storage-001', parent: '', fs: '-', size: '1099511627776', 'mount-filesystem': 'no' })
  t.like(row, { 'nvme-tcp-export': 'yes', 'file-path': '/raid10/vm-storage-001.img', 'file-size': '1024.0GiB' })
})

test('a list of 80 columns: legend, comments, a line of the log, digits and paths that are split', (t) => {
  const [pool, disk, ...more] = rowsOfDetail(NARROW)
  t.deepEqual(more, [])
  t.like(pool, { slot: 'raid10', size: '16003143565312', free: '14789895307264', 'mount-point': 'raid10', state: 'clean', use: '8%' })
  const path = '/storage-pool/a-very-long-path-that-does-not-fit-on-one-line.img'
  t.like(disk, { slot: 'pvc-test-123', model: path, 'file-path': path, size: '53687091200', 'mount-filesystem': 'yes' })
})

test('a quoted text that is split before what looks like a property stays one text', (t) => {
  const text = ' 0 Bt type=file model="/raid10/of-a-name-that-is-as-long-as-that\r\n      size=1.img" size=512\r\n'
  t.deepEqual(rowsOfDetail(text), [{ type: 'file', model: '/raid10/of-a-name-that-is-as-long-as-thatsize=1.img', size: '512' }])
})

test('files have a property with a space in its name', (t) => {
  const text = ' 1   name=storage-pool/metal-csi/pvc-1.img\n     type=.img file size=10.0GiB last-modified=2025-11-11 14:32:41\n'
  t.deepEqual(rowsOfDetail(text), [
    { name: 'storage-pool/metal-csi/pvc-1.img', type: '.img', 'file size': '10.0GiB', 'last-modified': '2025-11-11 14:32:41' },
  ])
})

test('JSON: integers as floats and beyond a double, booleans, breaks of the terminal, nothing', (t) => {
  t.deepEqual(rowsOfJson('[]\r\n'), [])
  t.deepEqual(rowsOfJson('[{"size":1099511627776.000000,"big":9007199254740993,"on":true,"slot":"pvc-a\r\nb","nil":null}]'), [
    { size: '1099511627776', big: '9007199254740993', on: 'yes', slot: 'pvc-ab', nil: '' },
  ])
})

test('what cannot be read is an error and no row', (t) => {
  for (const text of ['[{"slot":"a"', 'bad command name serialize (line 1 column 9)', '[1]', '']) {
    t.throws(() => rowsOfJson(text), { instanceOf: UnreadableReply }, text)
  }
  for (const text of ['no such command', ' 0 B type=file\nslot="a"', ' 0 B type=file "half', 'syntax error (line 1 column 7)']) {
    t.throws(() => rowsOfDetail(text), { instanceOf: UnreadableReply }, text)
  }
  t.throws(() => integer({ size: '1 2' }, 'size'), { instanceOf: UnreadableReply })
})

test('what a router prints is read back, whatever the width', (t) => {
  const word = fc.stringMatching(/^[a-z0-9][a-z0-9.-]{0,90}$/)
  const rows = fc.array(fc.tuple(word, word, fc.integer({ min: 0, max: 2 ** 50 }), fc.boolean()), { maxLength: 4 })
  fc.assert(
    fc.property(rows, fc.integer({ min: 60, max: 300 }), (disks, width) => {
      const printed = disks.map(([slot, path, size, exported]) => ({
        flags: exported ? 'Bt' : 'B',
        fields: [
          ['type', 'file'],
          ['slot', `"${slot}"`],
          ['size', grouped(size)],
          ['nvme-tcp-export', exported ? 'yes' : 'no'],
          ['file-path', `/raid10/${path}`],
        ] as [string, string][],
      }))
      t.deepEqual(
        rowsOfDetail(printDetail(printed, width, 'Bt')),
        disks.map(([slot, path, size, exported]) => ({
          type: 'file',
          slot: slot,
          size: String(size),
          'nvme-tcp-export': exported ? 'yes' : 'no',
          'file-path': `/raid10/${path}`,
        })),
      )
    }),
    { numRuns: 500 },
  )
})

test('a reply counts as done by its last line alone', (t) => {
  t.deepEqual(outcomeOf('row\r\nOK n1\r\n', 'n1'), { kind: 'done', body: 'row\n' })
  t.deepEqual(outcomeOf('ERR n1 failure: not enough space\r\n', 'n1'), { kind: 'refused', reason: 'failure: not enough space' })
  t.deepEqual(outcomeOf('bad command name x (line 1 column 2)\r\n', 'n1'), {
    kind: 'refused',
    reason: 'bad command name x (line 1 column 2)',
  })
  for (const cut of ['', 'OK', 'OK n', 'echo: system,info user logged in\n', 'ERR']) t.deepEqual(outcomeOf(cut, 'n1'), { kind: 'cut' }, cut)
  t.is(outcomeOf('OK n2\r\n', 'n1').kind, 'cut')
})
