//! Control commands: what is sent to `/dev/ublk-control`, and what comes back of a device.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::feature::Features;
use crate::ioctl::{ior, iowr};
use crate::kernel_enum::{UnknownCode, kernel_enum};

/// Bytes that [`CtrlOp::GetFeatures`] writes, and the `len` it insists on. Kernel: `UBLK_FEATURES_LEN`.
pub const FEATURES_BYTES: usize = 8;

/// [`CtrlCmd::queue_id`] of a command that is not for one queue: (u16)-1.
pub const NO_QUEUE: u16 = u16::MAX;

kernel_enum! {
    /// A control command. Its number goes into the SQE's `cmd_op` as [`ioctl_code`](Self::ioctl_code), or, to a
    /// kernel before 6.4, as [`legacy_code`](Self::legacy_code).
    ///
    /// "In" and "out" say what `CtrlCmd::addr` points to; `data` is `CtrlCmd::data[0]`.
    enum CtrlOp: u8, "UBLK_U_CMD_" {
        /// Out: a bit mask of possible CPUs; `len` a multiple of 8 and at least the kernel's CPU count in bits.
        /// `data`: the queue (not `queue_id`).
        GetQueueAffinity = 0x01 => "GET_QUEUE_AFFINITY",
        /// Out: [`DevInfo`].
        GetDevInfo = 0x02 => "GET_DEV_INFO",
        /// In and out: [`DevInfo`]. The kernel clears the flags it lacks, without an error: read them back.
        AddDev = 0x04 => "ADD_DEV",
        /// Returns when the last reference to `/dev/ublkcN` is gone (file, mapping, registered file).
        DelDev = 0x05 => "DEL_DEV",
        /// Returns when every tag of every queue has been fetched. `data`: the process (tgid) that opened `/dev/ublkcN`.
        StartDev = 0x06 => "START_DEV",
        /// Takes the block device away. Waiting FETCH commands come back with [`crate::FetchResult::Abort`].
        StopDev = 0x07 => "STOP_DEV",
        /// In: [`crate::Params`]. Refused (EACCES) once the device was started.
        SetParams = 0x08 => "SET_PARAMS",
        /// In: [`crate::Params`] with `len` set; out: the same, filled.
        GetParams = 0x09 => "GET_PARAMS",
        /// First half of a recovery: the old server is gone, a new one may open `/dev/ublkcN`.
        StartUserRecovery = 0x10 => "START_USER_RECOVERY",
        /// Second half: returns when every tag has been fetched again. `data`: the new process (tgid).
        EndUserRecovery = 0x11 => "END_USER_RECOVERY",
        /// As `GetDevInfo`, for devices of unprivileged users: `addr` begins with the path of `/dev/ublkcN`.
        GetDevInfo2 = 0x12 => "GET_DEV_INFO2",
        /// Out: [`Features`], [`FEATURES_BYTES`] long. Needs no device. Linux 6.5.
        GetFeatures = 0x13 => "GET_FEATURES",
        /// As `DelDev`, but does not wait. Linux 6.9.
        DelDevAsync = 0x14 => "DEL_DEV_ASYNC",
        /// `data`: the new size in sectors of 512 bytes. Needs [`Features::UPDATE_SIZE`].
        UpdateSize = 0x15 => "UPDATE_SIZE",
        /// `data`: milliseconds to wait for an idle tag in each queue, 0 = no limit. Needs [`Features::QUIESCE`].
        QuiesceDev = 0x16 => "QUIESCE_DEV",
        /// As `StopDev`, but EBUSY while the block device is open. Needs [`Features::SAFE_STOP_DEV`].
        TryStopDev = 0x17 => "TRY_STOP_DEV",
        /// In: [`crate::ShmemBufReg`]. Result: the index of the buffer. Needs [`Features::SHMEM_ZC`].
        RegBuf = 0x18 => "REG_BUF",
        /// `data`: the index of the buffer.
        UnregBuf = 0x19 => "UNREG_BUF",
    }
}

impl CtrlOp {
    /// The command's `cmd_op` in every kernel since 6.4: `_IOR` or `_IOWR` of `struct ublksrv_ctrl_cmd`.
    pub const fn ioctl_code(self) -> u32 {
        match self {
            Self::GetQueueAffinity
            | Self::GetDevInfo
            | Self::GetParams
            | Self::GetDevInfo2
            | Self::GetFeatures
            | Self::DelDevAsync => ior::<CtrlCmd>(self.code()),
            _ => iowr::<CtrlCmd>(self.code()),
        }
    }

    /// The command's `cmd_op` before the ioctl encoding (`UBLK_CMD_*`), the only one that kernels before 6.4 know.
    /// `None` for commands that came later.
    pub const fn legacy_code(self) -> Option<u32> {
        if self.code() <= Self::GetDevInfo2.code() { Some(self.code() as u32) } else { None }
    }
}

impl fmt::Display for CtrlOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The argument of a control command; travels in the command area of a 128-byte SQE. Kernel:
/// `struct ublksrv_ctrl_cmd`, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CtrlCmd {
    /// The N of `/dev/ublkcN`; `u32::MAX` in `AddDev` asks the kernel to choose.
    pub dev_id: u32,
    /// [`NO_QUEUE`] in every command of Linux 7.2.
    pub queue_id: u16,
    /// Bytes at `addr`, with the device path if there is one.
    pub len: u16,
    /// Address of the command's buffer, in or out; 0 without one.
    pub addr: u64,
    /// Inline argument; [`CtrlOp`] says what each command puts here.
    pub data: [u64; 1],
    /// Bytes of the path of `/dev/ublkcN` at the start of the buffer, with its zero byte. For devices of
    /// unprivileged users and for `GetDevInfo2`, else 0.
    pub dev_path_len: u16,
    /// Zero.
    pub pad: u16,
    /// Zero.
    pub reserved: u32,
}

impl CtrlCmd {
    /// Bytes of the command area of a 128-byte SQE.
    pub const SQE_BYTES: usize = 80;

    /// A command for device `dev_id`, without a buffer.
    pub const fn for_device(dev_id: u32) -> Self {
        Self { dev_id, queue_id: NO_QUEUE, len: 0, addr: 0, data: [0], dev_path_len: 0, pad: 0, reserved: 0 }
    }

    /// The same with a buffer of `len` bytes at `addr`.
    pub const fn with_buffer(self, addr: u64, len: u16) -> Self {
        Self { addr, len, ..self }
    }

    /// The same with an inline argument.
    pub const fn with_data(self, data: u64) -> Self {
        Self { data: [data], ..self }
    }

    /// The same, saying that the buffer begins with a path of `dev_path_len` bytes, its zero byte included.
    pub const fn with_dev_path_len(self, dev_path_len: u16) -> Self {
        Self { dev_path_len, ..self }
    }

    /// The command area of the SQE: this struct, then zeros.
    pub fn to_sqe_bytes(&self) -> [u8; Self::SQE_BYTES] {
        let mut bytes = [0; Self::SQE_BYTES];
        bytes[..size_of::<Self>()].copy_from_slice(self.as_bytes());
        bytes
    }

    /// The struct at the start of an SQE's command area.
    pub fn from_sqe_bytes(bytes: &[u8; Self::SQE_BYTES]) -> Self {
        let mut command = Self::for_device(0);
        command.as_mut_bytes().copy_from_slice(&bytes[..size_of::<Self>()]);
        command
    }
}

impl Default for CtrlCmd {
    fn default() -> Self {
        Self::for_device(0)
    }
}

kernel_enum! {
    /// Where a device is in its life.
    enum DevState: u16, "UBLK_S_DEV_" {
        /// Added and not started, or stopped.
        Dead = 0 => "DEAD",
        /// `/dev/ublkbN` exists and its requests reach the server.
        Live = 1 => "LIVE",
        /// The server is gone or asked for it; requests wait for a recovery.
        Quiesced = 2 => "QUIESCED",
        /// The server is gone; requests fail until a recovery.
        FailIo = 3 => "FAIL_IO",
    }
}

impl fmt::Display for DevState {
    /// `dead`, `live`, `quiesced` or `fail_io`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dead => "dead",
            Self::Live => "live",
            Self::Quiesced => "quiesced",
            Self::FailIo => "fail_io",
        })
    }
}

/// What the kernel keeps of a device. Kernel: `struct ublksrv_ctrl_dev_info`, 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DevInfo {
    /// Hardware queues, 1 to [`crate::MAX_NR_QUEUES`]; the kernel lowers it to its CPU count.
    pub nr_hw_queues: u16,
    /// Tags of each queue, 1 to [`crate::MAX_QUEUE_DEPTH`].
    pub queue_depth: u16,
    /// Number of a [`DevState`]; see [`DevInfo::state`].
    pub state: u16,
    /// Zero.
    pub pad0: u16,
    /// Largest request in bytes; the kernel rounds it down to whole pages. At most [`crate::MAX_IO_BUF_BYTES`].
    pub max_io_buf_bytes: u32,
    /// The N of `/dev/ublkcN` and `/dev/ublkbN`; `u32::MAX` in `AddDev` asks the kernel to choose.
    pub dev_id: u32,
    /// Process (tgid) of the server as this process sees it; -1 or 0 without one.
    pub ublksrv_pid: i32,
    /// Zero.
    pub pad1: u32,
    /// Asked for in `AddDev`, granted in its answer and from then on.
    pub flags: Features,
    /// For the server alone: kept, not read, by the driver.
    pub ublksrv_flags: u64,
    /// User that added the device; set by the kernel.
    pub owner_uid: u32,
    /// Group that added the device; set by the kernel.
    pub owner_gid: u32,
    /// Zero.
    pub reserved1: u64,
    /// Zero.
    pub reserved2: u64,
}

impl DevInfo {
    /// The state that the kernel reported.
    ///
    /// # Errors
    /// [`UnknownCode`] for a state that Linux 7.2 does not have.
    pub fn state(&self) -> Result<DevState, UnknownCode> {
        DevState::try_from(self.state)
    }
}

const _: () = assert!(size_of::<CtrlCmd>() == 32 && size_of::<DevInfo>() == 64);
const _: () = assert!(size_of::<Features>() == FEATURES_BYTES);
