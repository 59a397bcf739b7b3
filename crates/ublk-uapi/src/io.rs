//! I/O commands: what is sent to `/dev/ublkcN` for a tag, and what its completion says.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::batch::BatchIo;
use crate::ioctl::iowr;
use crate::kernel_enum::kernel_enum;
use crate::sectors::Sectors;

kernel_enum! {
    /// A command for one tag ([`IoCmd`]) or for a batch of tags ([`BatchIo`]). Its number goes into the SQE's
    /// `cmd_op` as [`ioctl_code`](Self::ioctl_code), or, to a kernel before 6.4, as
    /// [`legacy_code`](Self::legacy_code).
    enum IoCmdOp: u8, "UBLK_U_IO_" {
        /// Hands a tag to the driver for the first time; completes when a request sits in it.
        FetchReq = 0x20 => "FETCH_REQ",
        /// Answers the tag's request and hands the tag back; completes with the next request.
        CommitAndFetchReq = 0x21 => "COMMIT_AND_FETCH_REQ",
        /// Names the buffer for a write's data, after [`FetchResult::NeedGetData`]; completes when it is there.
        NeedGetData = 0x22 => "NEED_GET_DATA",
        /// Registers the request's pages as fixed buffer `IoCmd::addr` of the issuing ring.
        RegisterIoBuf = 0x23 => "REGISTER_IO_BUF",
        /// Undoes `RegisterIoBuf` for fixed buffer `IoCmd::addr`.
        UnregisterIoBuf = 0x24 => "UNREGISTER_IO_BUF",
        /// Batch: hands tags to the driver for the first time. Result: 0 or -errno.
        PrepIoCmds = 0x25 => "PREP_IO_CMDS",
        /// Batch: answers requests. Result: the bytes of elements handled, which may be fewer than given, or -errno.
        CommitIoCmds = 0x26 => "COMMIT_IO_CMDS",
        /// Batch: multishot; each completion brings tags, two bytes each, in a provided buffer.
        FetchIoCmds = 0x27 => "FETCH_IO_CMDS",
    }
}

impl IoCmdOp {
    /// The command's `cmd_op` in every kernel since 6.4: `_IOWR` of `struct ublksrv_io_cmd` or `struct ublk_batch_io`.
    pub const fn ioctl_code(self) -> u32 {
        match self {
            Self::PrepIoCmds | Self::CommitIoCmds | Self::FetchIoCmds => iowr::<BatchIo>(self.code()),
            _ => iowr::<IoCmd>(self.code()),
        }
    }

    /// The command's `cmd_op` before the ioctl encoding (`UBLK_IO_*`), the only one that kernels before 6.4 know.
    /// `None` for commands that came later.
    pub const fn legacy_code(self) -> Option<u32> {
        if self.code() <= Self::NeedGetData.code() { Some(self.code() as u32) } else { None }
    }
}

impl fmt::Display for IoCmdOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The argument of a command for one tag; fills the command area of a 64-byte SQE. Kernel:
/// `struct ublksrv_io_cmd`, 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoCmd {
    /// Hardware queue.
    pub q_id: u16,
    /// Slot of the queue.
    pub tag: u16,
    /// Answer of a commit: bytes done, or -errno. A read answered with 0 fails with EIO.
    pub result: i32,
    /// By command: address of the tag's buffer, index of a fixed buffer, or, in the commit of a zone append,
    /// the sector where the data went (kernel: `zone_append_lba`, the other half of the union).
    /// 0 where the device has `USER_COPY`, `SUPPORT_ZERO_COPY` or `AUTO_BUF_REG` and the command names none.
    pub addr: u64,
}

impl IoCmd {
    /// Bytes of the command area of a 64-byte SQE.
    pub const SQE_BYTES: usize = 16;

    /// The commit of a zone append whose data went to sector `written_at`. Kernel: `zone_append_lba`.
    pub const fn zone_append_commit(q_id: u16, tag: u16, result: i32, written_at: Sectors) -> Self {
        Self { q_id, tag, result, addr: written_at.0 }
    }

    /// `addr` as the commit of a zone append means it.
    pub const fn zone_append_lba(&self) -> Sectors {
        Sectors(self.addr)
    }

    /// The command area of the SQE.
    #[inline]
    pub fn to_sqe_bytes(&self) -> [u8; Self::SQE_BYTES] {
        zerocopy::transmute!(*self)
    }

    /// The struct in an SQE's command area.
    #[inline]
    pub fn from_sqe_bytes(bytes: &[u8; Self::SQE_BYTES]) -> Self {
        zerocopy::transmute!(*bytes)
    }
}

/// A request is in the tag, or the command is done. Kernel: `UBLK_IO_RES_OK`.
pub const RES_OK: i32 = 0;

/// The server must issue [`IoCmdOp::NeedGetData`]. Kernel: `UBLK_IO_RES_NEED_GET_DATA`.
pub const RES_NEED_GET_DATA: i32 = 1;

/// The device stops: the tag must not be fetched again. Kernel: `UBLK_IO_RES_ABORT`, which is `-ENODEV`.
pub const RES_ABORT: i32 = -19;

/// Result of a completed fetch, commit-and-fetch or need-get-data command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchResult {
    /// A request is in the tag. Kernel: `UBLK_IO_RES_OK`.
    Request,
    /// A write is in the tag; its data comes after [`IoCmdOp::NeedGetData`]. Kernel: `UBLK_IO_RES_NEED_GET_DATA`.
    NeedGetData,
    /// The device stops: the tag must not be fetched again. Kernel: `UBLK_IO_RES_ABORT`.
    Abort,
    /// The driver refused the command, with this -errno; or a positive number that Linux 7.2 never sends.
    Refused(i32),
}

impl FetchResult {
    /// Reads the `res` of a CQE.
    #[inline]
    pub const fn from_cqe(res: i32) -> Self {
        match res {
            RES_OK => Self::Request,
            RES_NEED_GET_DATA => Self::NeedGetData,
            RES_ABORT => Self::Abort,
            _ => Self::Refused(res),
        }
    }
}

const _: () = assert!(size_of::<IoCmd>() == 16);
