/**
 * What this project does with each flag, command and operation of the driver, and the test that fails without it.
 *
 * A test is `file: name`; test/unit/kernel-support.test.ts checks that each is there, and that nothing of the driver is left out.
 */

export interface Support {
  /** Kernel name without its prefix. */
  name: string
  /** First release of Linux. */
  since: string
  /** Where it is used: option, call or verb. */
  use: string
  test: string
}

const PATHS = 'crates/ublk/tests/paths.rs'
const DEVICE = 'crates/ublk/tests/device.rs'
const RECOVERY = 'crates/ublk/tests/recovery.rs'
const ZONED = 'crates/ublk/tests/zoned.rs'
const MEMORY = 'crates/ublk/tests/request_memory.rs'
const MODES = `${PATHS}: every_buffer_mode_of_this_kernel_moves_the_data`
const HEADER = 'crates/ublk-uapi/tests/header/main.rs: every_name_of_the_header_has_a_counterpart'

/** By name; the releases and the uses are in the driver's and the library's own lists. */
export const flagTests: Readonly<Record<string, string>> = {
  SUPPORT_ZERO_COPY: MODES,
  URING_CMD_COMP_IN_TASK: HEADER,
  NEED_GET_DATA: MODES,
  USER_RECOVERY: `${RECOVERY}: a_killed_servers_device_goes_on_under_the_next_one_within_a_second`,
  USER_RECOVERY_REISSUE: `${RECOVERY}: a_killed_servers_device_goes_on_under_the_next_one_within_a_second`,
  UNPRIVILEGED_DEV: 'crates/ublk/tests/unprivileged.rs: a_user_adds_uses_and_removes_a_device_that_others_cannot_touch',
  CMD_IOCTL_ENCODE: 'crates/ublk/src/control/opcodes.rs: plain_numbers_serve_a_device',
  USER_COPY: MODES,
  ZONED: `${ZONED}: the_zones_are_reported_as_asked_for`,
  USER_RECOVERY_FAIL_IO: `${RECOVERY}: a_killed_servers_device_goes_on_under_the_next_one_within_a_second`,
  UPDATE_SIZE: `${RECOVERY}: a_device_in_use_grows_and_shrinks`,
  AUTO_BUF_REG: MODES,
  QUIESCE: `${RECOVERY}: quiesce_hands_a_device_over_under_load_and_loses_nothing`,
  PER_IO_DAEMON: `${PATHS}: threads_share_the_tags_of_all_queues`,
  BUF_REG_OFF_DAEMON: `${MEMORY}: another_ring_than_the_queues_can_register_the_pages`,
  BATCH_IO: `${PATHS}: requests_come_and_go_in_batches`,
  INTEGRITY: 'crates/ublk/tests/integrity.rs: a_changed_byte_of_data_or_metadata_fails_the_read',
  SAFE_STOP_DEV: 'cli/test/device/lifecycle.test.ts: stop --safe',
  NO_AUTO_PART_SCAN: `${PATHS}: partitions_are_not_looked_for_when_told_so`,
  SHMEM_ZC: `${PATHS}: data_in_shared_memory_stays_there`,
}

const LIST = `${DEVICE}: list_and_info_show_the_device_as_it_is`
const DAILY = `${DEVICE}: memory_keeps_what_was_written_over_stop_and_start`

const SHARING = `${MEMORY}: memory_is_shared_and_let_go_of_while_the_device_is_used`

export const commands: readonly Support[] = [
  {
    name: 'GET_QUEUE_AFFINITY',
    since: '6.0',
    use: '`queueAffinity`, `ublk affinity`',
    test: 'cli/test/device/recovery.test.ts: affinity: every queue and its CPUs',
  },
  { name: 'GET_DEV_INFO', since: '6.0', use: 'before 6.3, in place of GET_DEV_INFO2', test: `${LIST}` },
  { name: 'ADD_DEV', since: '6.0', use: '`createDevice`, `ublk add`', test: DAILY },
  {
    name: 'DEL_DEV',
    since: '6.0',
    use: '`close`, `deleteDevice`, `ublk del`',
    test: 'crates/ublk/tests/many.rs: devices_come_and_go_without_a_trace',
  },
  { name: 'START_DEV', since: '6.0', use: '`start`', test: DAILY },
  {
    name: 'STOP_DEV',
    since: '6.0',
    use: '`stop`, `stopDevice`, `ublk stop`',
    test: `${DEVICE}: a_device_stopped_by_somebody_else_ends_its_queues`,
  },
  { name: 'SET_PARAMS', since: '6.0', use: '`createDevice`', test: LIST },
  { name: 'GET_PARAMS', since: '6.0', use: '`info`, `ublk list`', test: LIST },
  { name: 'START_USER_RECOVERY', since: '6.1', use: '`recoverDevice`, `ublk recover`', test: flagTests.USER_RECOVERY as string },
  { name: 'END_USER_RECOVERY', since: '6.1', use: '`recoverDevice`, `ublk recover`', test: flagTests.USER_RECOVERY as string },
  { name: 'GET_DEV_INFO2', since: '6.3', use: '`info`, `ublk list`', test: LIST },
  {
    name: 'GET_FEATURES',
    since: '6.5',
    use: '`features`, `ublk features`',
    test: 'cli/test/device/lifecycle.test.ts: features in text and JSON',
  },
  {
    name: 'DEL_DEV_ASYNC',
    since: '6.9',
    use: '`deleteDevice(id, { wait: false })`, `ublk del --async`',
    test: 'cli/test/device/lifecycle.test.ts: del --async',
  },
  { name: 'UPDATE_SIZE', since: '6.16', use: '`resize`, `ublk resize`', test: flagTests.UPDATE_SIZE as string },
  { name: 'QUIESCE_DEV', since: '6.16', use: '`quiesce`, `ublk quiesce`', test: flagTests.QUIESCE as string },
  {
    name: 'TRY_STOP_DEV',
    since: '7.0',
    use: '`stopDevice(id, { safe: true })`, `ublk stop --safe`',
    test: flagTests.SAFE_STOP_DEV as string,
  },
  { name: 'REG_BUF', since: '7.1', use: '`sharedMemory`, `shareMemory`, `--shmem`, `ublk shmem --add`', test: SHARING },
  { name: 'UNREG_BUF', since: '7.1', use: '`unshareMemory`, `ublk shmem --remove`', test: SHARING },
]

export const ioCommands: readonly Support[] = [
  { name: 'FETCH_REQ', since: '6.0', use: 'always, but with `batch`', test: DAILY },
  { name: 'COMMIT_AND_FETCH_REQ', since: '6.0', use: 'always, but with `batch`', test: DAILY },
  { name: 'NEED_GET_DATA', since: '6.0', use: "`dataPath: 'get-data'`", test: MODES },
  { name: 'REGISTER_IO_BUF', since: '6.15', use: "`dataPath: 'zero-copy'`, `zeroCopyFallback`", test: MODES },
  { name: 'UNREGISTER_IO_BUF', since: '6.15', use: "`dataPath: 'zero-copy'`, `zeroCopyFallback`", test: MODES },
  { name: 'PREP_IO_CMDS', since: '7.0', use: '`batch`', test: flagTests.BATCH_IO as string },
  { name: 'COMMIT_IO_CMDS', since: '7.0', use: '`batch`', test: flagTests.BATCH_IO as string },
  { name: 'FETCH_IO_CMDS', since: '7.0', use: '`batch`', test: flagTests.BATCH_IO as string },
]

const FILE = `${DEVICE}: a_file_holds_the_bytes_and_loses_discarded_ones`
const ZONES = `${ZONED}: blkzone_opens_closes_finishes_and_resets`

export const operations: readonly Support[] = [
  { name: 'READ', since: '6.0', use: 'every target', test: MODES },
  { name: 'WRITE', since: '6.0', use: 'every target that is not read-only', test: MODES },
  {
    name: 'FLUSH',
    since: '6.0',
    use: 'targets and backends that keep writes back',
    test: 'test/device/powercut.test.ts: acknowledged blocks survive a power cut',
  },
  { name: 'DISCARD', since: '6.0', use: 'mem, file, stripe, mirror; `discard` of a backend', test: FILE },
  { name: 'WRITE_SAME', since: '–', use: 'none: the driver never sends it', test: HEADER },
  {
    name: 'WRITE_ZEROES',
    since: '6.0',
    use: 'mem, file, stripe, mirror; `writeZeroes` of a backend',
    test: 'test/device/filesystem.test.ts: these ranges read back as zeroes, and no others',
  },
  { name: 'ZONE_OPEN', since: '6.6', use: 'zoned', test: ZONES },
  { name: 'ZONE_CLOSE', since: '6.6', use: 'zoned', test: ZONES },
  { name: 'ZONE_FINISH', since: '6.6', use: 'zoned', test: ZONES },
  { name: 'ZONE_APPEND', since: '6.6', use: 'zoned', test: `${ZONED}: btrfs_lives_on_a_zoned_device_and_appends` },
  { name: 'ZONE_RESET_ALL', since: '6.6', use: 'zoned', test: `${ZONED}: all_zones_of_a_disk_without_conventional_ones_are_reset_at_once` },
  { name: 'ZONE_RESET', since: '6.6', use: 'zoned', test: ZONES },
  { name: 'REPORT_ZONES', since: '6.6', use: 'zoned', test: `${ZONED}: the_zones_are_reported_as_asked_for` },
]

const SHAPE = `${MEMORY}: alignment_and_segments_are_what_the_block_layer_has`

export const parameters: readonly Support[] = [
  { name: 'BASIC', since: '6.0', use: 'always: size, blocks, attributes, `maxIoBytes`', test: LIST },
  { name: 'DISCARD', since: '6.0', use: 'targets and backends with discard or write-zeroes', test: FILE },
  { name: 'DEVT', since: '6.3', use: 'read for `info`; the driver refuses it otherwise', test: flagTests.UNPRIVILEGED_DEV as string },
  { name: 'ZONED', since: '6.6', use: 'zoned', test: `${ZONED}: the_zones_are_reported_as_asked_for` },
  { name: 'DMA_ALIGN', since: '6.15', use: '`dmaAlignment`, and zero copy over files with `direct`', test: SHAPE },
  { name: 'SEGMENT', since: '6.15', use: '`maxSegments`, `maxSegmentSize`, `segmentBoundary`', test: SHAPE },
  { name: 'INTEGRITY', since: '7.0', use: 'integrity', test: flagTests.INTEGRITY as string },
]
