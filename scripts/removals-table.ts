/**
 * For each flag, command, operation and parameter of the driver the smallest edit that removes our code for it. The test that has to notice
 * is the one of scripts/kernel-support-table.ts. test/unit/kernel-support.test.ts checks that every row is here and every edit fits its file.
 */
import { commands, flagTests, ioCommands, operations, parameters } from './kernel-support-table.ts'

export interface Removal {
  /** As in the tables of docs/kernel-support.md. */
  name: string
  /** What is gone, in a phrase. */
  what: string
  file: string
  /** Found once in the file. */
  text: string
  /** What stands there instead. */
  by: string
  /** The same once more, where one place holds on to the other. */
  also?: { text: string; by: string }
  /** The kernel on which it shows, if not the newest. */
  kernel?: string
  /** Why no test can notice. */
  survives?: string
}

export interface Row extends Removal {
  /** `file: name`. */
  test: string
}

const DEVICE = 'crates/ublk/src/device.rs'
const CONTROL = 'crates/ublk/src/control/mod.rs'
const HAND_OVER = 'crates/ublk/src/control/recovery.rs'
const SHARING = 'crates/ublk/src/control/shared_memory.rs'
const MEMORY = 'crates/ublk/src/device/request_memory.rs'
const QUEUE = 'crates/ublk/src/queue/mod.rs'
const SUBMIT = 'crates/ublk/src/queue/submit.rs'
const BATCH = 'crates/ublk/src/queue/batch.rs'
const REQUEST = 'crates/ublk/src/queue/request.rs'
const FEATURES = 'crates/ublk-uapi/src/feature.rs'

const ANSWERED = 'match Ok::<u32, Error>(0) {'

/** A flag that a line of its own asks for. */
const unasked = (name: string, condition: string): Removal => ({
  name,
  what: 'not asked for',
  file: DEVICE,
  text: `options.set(Features::${name}, ${condition});`,
  by: '',
})

/** A flag that is asked for among others. */
const unaskedAmong = (name: string, text: string, by: string): Removal => ({ name, what: 'not asked for', file: DEVICE, text, by })

const flagRemovals: Removal[] = [
  unaskedAmong('SUPPORT_ZERO_COPY', 'BufferMode::ZeroCopy => Features::SUPPORT_ZERO_COPY,', 'BufferMode::ZeroCopy => Features::empty(),'),
  {
    name: 'URING_CMD_COMP_IN_TASK',
    what: 'not among the features; the driver sets it unasked',
    file: FEATURES,
    text: '    URING_CMD_COMP_IN_TASK(6, 0),\n',
    by: '',
    also: { text: '        const URING_CMD_COMP_IN_TASK = 1 << 1;\n', by: '' },
  },
  unaskedAmong('NEED_GET_DATA', 'BufferMode::GetData => Features::NEED_GET_DATA,', 'BufferMode::GetData => Features::empty(),'),
  unaskedAmong('USER_RECOVERY', 'Features::USER_RECOVERY | Features::QUIESCE', 'Features::QUIESCE'),
  unaskedAmong('USER_RECOVERY_REISSUE', 'Recovery::Requeue.features() | Features::USER_RECOVERY_REISSUE', 'Recovery::Requeue.features()'),
  unasked('UNPRIVILEGED_DEV', 'self.unprivileged'),
  {
    name: 'CMD_IOCTL_ENCODE',
    what: 'no plain numbers for a driver without it; the driver sets it unasked',
    file: 'crates/ublk/src/control/opcodes.rs',
    text: 'Opcodes::Legacy => op.legacy_code(),',
    by: 'Opcodes::Legacy => None,',
  },
  unaskedAmong('USER_COPY', 'BufferMode::UserCopy => Features::USER_COPY,', 'BufferMode::UserCopy => Features::empty(),'),
  unasked('ZONED', 'self.zoned.is_some()'),
  unaskedAmong('USER_RECOVERY_FAIL_IO', 'Recovery::Requeue.features() | Features::USER_RECOVERY_FAIL_IO', 'Recovery::Requeue.features()'),
  unaskedAmong('UPDATE_SIZE', 'Features::CMD_IOCTL_ENCODE.union(Features::UPDATE_SIZE)', 'Features::CMD_IOCTL_ENCODE'),
  unaskedAmong('AUTO_BUF_REG', 'Features::AUTO_BUF_REG | Features::SUPPORT_ZERO_COPY', 'Features::SUPPORT_ZERO_COPY'),
  unaskedAmong('QUIESCE', 'Features::USER_RECOVERY | Features::QUIESCE', 'Features::USER_RECOVERY'),
  // Where the driver has it, it sets it unasked. Where it has not, a device that needs it must be refused.
  { ...unasked('PER_IO_DAEMON', 'self.threads.per_io'), kernel: '6.12' },
  {
    name: 'BUF_REG_OFF_DAEMON',
    what: 'not in the list of features',
    file: FEATURES,
    text: '    BUF_REG_OFF_DAEMON(6, 17),\n',
    by: '',
    survives: 'the driver sets it unasked, and no code of ours uses it: the test shows what the driver does for a target of somebody else',
  },
  unasked('BATCH_IO', 'self.queue_options.batch'),
  unasked('INTEGRITY', 'self.integrity.is_some()'),
  {
    name: 'SAFE_STOP_DEV',
    what: 'a safe stop is a plain one; the driver sets the flag unasked',
    file: CONTROL,
    text: 'self.run(CtrlOp::TryStopDev, CtrlCmd',
    by: 'self.run(CtrlOp::StopDev, CtrlCmd',
  },
  unasked('NO_AUTO_PART_SCAN', '!self.partition_scan'),
  unaskedAmong('SHMEM_ZC', 'BufferMode::SharedMemory => Features::SHMEM_ZC,', 'BufferMode::SharedMemory => Features::empty(),'),
]

/** A command that is not sent, and taken for done. */
const unsent = (name: string, file: string, text: string, by: string): Removal => ({ name, what: 'not sent', file, text, by })

const commandRemovals: Removal[] = [
  unsent('GET_QUEUE_AFFINITY', CONTROL, 'self.run(CtrlOp::GetQueueAffinity, command, &mut mask)?;', ''),
  unsent('GET_DEV_INFO', CONTROL, 'self.run(CtrlOp::GetDevInfo, CtrlCmd::for_device(id), &mut bytes)?;', ''),
  unsent('ADD_DEV', CONTROL, 'self.run(CtrlOp::AddDev, CtrlCmd::for_device(info.dev_id), &mut bytes)?;', ''),
  unsent('DEL_DEV', CONTROL, 'match self.run_within(DELETE_LIMIT, CtrlOp::DelDev, CtrlCmd::for_device(id), &mut Vec::new()) {', ANSWERED),
  unsent('START_DEV', CONTROL, 'self.run_within(limit, CtrlOp::StartDev, command, &mut Vec::new()).map(drop)', 'Ok(())'),
  unsent('STOP_DEV', CONTROL, 'match self.run_within(limit, CtrlOp::StopDev, CtrlCmd::for_device(id), &mut Vec::new()) {', ANSWERED),
  unsent('SET_PARAMS', CONTROL, 'self.run(CtrlOp::SetParams, CtrlCmd::for_device(id), &mut bytes).map(drop)', 'Ok(())'),
  unsent('GET_PARAMS', CONTROL, 'self.run(CtrlOp::GetParams, CtrlCmd::for_device(id), &mut bytes)?;', ''),
  {
    // From 6.16 on the driver resets a queue by itself when its server goes, and the command only looks at the state.
    ...unsent(
      'START_USER_RECOVERY',
      HAND_OVER,
      'match self.run(CtrlOp::StartUserRecovery, CtrlCmd::for_device(id), &mut Vec::new()) {',
      ANSWERED,
    ),
    kernel: '6.12',
  },
  unsent('END_USER_RECOVERY', HAND_OVER, 'self.run_within(limit, CtrlOp::EndUserRecovery, command, &mut Vec::new()).map(drop)', 'Ok(())'),
  unsent('GET_DEV_INFO2', CONTROL, 'self.run(CtrlOp::GetDevInfo2, command, &mut bytes)?;', ''),
  unsent('GET_FEATURES', CONTROL, 'self.run(CtrlOp::GetFeatures, CtrlCmd::for_device(u32::MAX), &mut bytes)?;', ''),
  unsent('DEL_DEV_ASYNC', CONTROL, 'self.run(CtrlOp::DelDevAsync, CtrlCmd::for_device(id), &mut Vec::new()).map(drop)', 'Ok(())'),
  unsent('UPDATE_SIZE', HAND_OVER, 'self.run(CtrlOp::UpdateSize, command, &mut Vec::new()).map(drop)', 'Ok(())'),
  unsent(
    'QUIESCE_DEV',
    HAND_OVER,
    'match self.run_within(limit + QUIESCE_SLACK, CtrlOp::QuiesceDev, command, &mut Vec::new()) {',
    ANSWERED,
  ),
  unsent('TRY_STOP_DEV', CONTROL, 'match self.run(CtrlOp::TryStopDev, CtrlCmd::for_device(id), &mut Vec::new()) {', ANSWERED),
  unsent(
    'REG_BUF',
    SHARING,
    'let index = self\n            .run(CtrlOp::RegBuf, CtrlCmd::for_device(id), &mut bytes)',
    'let index = Ok::<u32, Error>(0)',
  ),
  unsent('UNREG_BUF', SHARING, 'self.run(CtrlOp::UnregBuf, command, &mut Vec::new())', 'Ok::<u32, Error>(0)'),
]

const ioRemovals: Removal[] = [
  unsent('FETCH_REQ', SUBMIT, 'self.push_command(IoCmdOp::FetchReq, tag, name, -1, buffer)', 'Ok(())'),
  unsent('COMMIT_AND_FETCH_REQ', QUEUE, 'self.push_command(IoCmdOp::CommitAndFetchReq, tag, name, result, buffer)', 'Ok(())'),
  unsent('NEED_GET_DATA', SUBMIT, 'self.push_command(IoCmdOp::NeedGetData, tag, name, 0, place)', 'Ok(())'),
  unsent('REGISTER_IO_BUF', SUBMIT, 'self.push_registration(IoCmdOp::RegisterIoBuf, tag)', 'Ok(())'),
  unsent('UNREGISTER_IO_BUF', SUBMIT, 'self.push_registration(IoCmdOp::UnregisterIoBuf, tag)', 'Ok(())'),
  {
    name: 'PREP_IO_CMDS',
    what: 'COMMIT_IO_CMDS in its place',
    file: BATCH,
    text: 'if area.is_prepared { IoCmdOp::CommitIoCmds } else { IoCmdOp::PrepIoCmds }',
    by: 'IoCmdOp::CommitIoCmds',
  },
  unsent(
    'COMMIT_IO_CMDS',
    BATCH,
    'if let Some(number) = area.next_commit() {',
    'if !area.is_prepared && let Some(number) = area.next_commit() {',
  ),
  unsent('FETCH_IO_CMDS', BATCH, 'if !area.is_prepared || area.is_ending {', 'if true {'),
]

const undecoded = (name: string, text: string): Removal => ({
  name,
  what: 'not known: answered with EOPNOTSUPP',
  file: REQUEST,
  text,
  by: text.replace(/=> .*,/, '=> Op::Other(code),'),
})

const operationRemovals: Removal[] = [
  undecoded('READ', 'READ => Op::Read,'),
  undecoded('WRITE', 'WRITE => Op::Write,'),
  {
    name: 'FLUSH',
    what: 'answered without fdatasync',
    file: 'crates/ublk/src/queue/submit.rs',
    text: 'BackingIo::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),',
    by: 'BackingIo::Sync => { let _ = file; opcode::Nop::new().build() }',
  },
  undecoded('DISCARD', 'Ok(IoOp::Discard) => Op::Discard,'),
  {
    name: 'WRITE_SAME',
    what: 'not in the list of operations',
    file: 'crates/ublk-uapi/src/request.rs',
    text: '        WriteSame = 4 => "WRITE_SAME",\n',
    by: '',
  },
  undecoded('WRITE_ZEROES', 'Ok(IoOp::WriteZeroes) => Op::WriteZeroes,'),
  undecoded('ZONE_OPEN', 'Ok(IoOp::ZoneOpen) => Op::ZoneOpen,'),
  undecoded('ZONE_CLOSE', 'Ok(IoOp::ZoneClose) => Op::ZoneClose,'),
  undecoded('ZONE_FINISH', 'Ok(IoOp::ZoneFinish) => Op::ZoneFinish,'),
  undecoded('ZONE_APPEND', 'Ok(IoOp::ZoneAppend) => Op::ZoneAppend,'),
  undecoded('ZONE_RESET_ALL', 'Ok(IoOp::ZoneResetAll) => Op::ZoneResetAll,'),
  undecoded('ZONE_RESET', 'Ok(IoOp::ZoneReset) => Op::ZoneReset,'),
  undecoded('REPORT_ZONES', 'Ok(IoOp::ReportZones) => Op::ReportZones,'),
]

const unset = (name: string, file: string, text: string, by: string): Removal => ({ name, what: 'not set', file, text, by })

const parameterRemovals: Removal[] = [
  unset('BASIC', 'crates/ublk-uapi/src/params.rs', 'Self { types: ParamTypes::BASIC, basic,', 'Self { types: ParamTypes::empty(), basic,'),
  unset('DISCARD', DEVICE, 'if self.read_only || !(self.discard || self.write_zeroes) {', 'if true {'),
  {
    name: 'DEVT',
    what: 'not read',
    file: 'crates/ublk/src/control/info.rs',
    text: 'block_number: (params.devt.disk_major, params.devt.disk_minor),',
    by: 'block_number: (0, 0),',
  },
  unset('ZONED', DEVICE, 'if let Some(zoned) = self.zoned {', 'if let Some(zoned) = None::<ZonedGeometry> {'),
  unset(
    'DMA_ALIGN',
    MEMORY,
    '_ => params.with_dma_align(ParamDmaAlign { alignment: alignment - 1, ..ParamDmaAlign::default() }),',
    '_ => params,',
  ),
  unset('SEGMENT', MEMORY, 'Some(segments) => params.with_segment(segments.param()),', 'Some(_) => params,'),
  unset('INTEGRITY', DEVICE, 'Some(integrity) => params.with_integrity(integrity.param()),', 'Some(_) => params,'),
]

const withTests = (removals: readonly Removal[], tests: Readonly<Record<string, string>>): Row[] =>
  removals.map((removal) => ({ ...removal, test: tests[removal.name] ?? '' }))

const testsOf = (rows: readonly { name: string; test: string }[]): Record<string, string> =>
  Object.fromEntries(rows.map(({ name, test }) => [name, test]))

/** By the headings of docs/kernel-support.md. */
export const removals: Readonly<Record<string, readonly Row[]>> = {
  Flags: withTests(flagRemovals, flagTests),
  'Control commands': withTests(commandRemovals, testsOf(commands)),
  'I/O commands': withTests(ioRemovals, testsOf(ioCommands)),
  Operations: withTests(operationRemovals, testsOf(operations)),
  Parameters: withTests(parameterRemovals, testsOf(parameters)),
}
