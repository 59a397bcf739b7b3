//! Feature flags: what a server asks of a device, what a kernel offers, what a device was granted.

use core::fmt;

use crate::kernel_flags::kernel_flags;

kernel_flags! {
    /// Features of a device (`DevInfo::flags`) or of the kernel (`CtrlOp::GetFeatures`). Kernel: `UBLK_F_*`.
    struct Features: u64, "UBLK_F_" {
        /// A request's pages can be registered as a fixed buffer of a ring and used by its operations, without a copy.
        const SUPPORT_ZERO_COPY = 1 << 0;
        /// Commands complete by task work. The driver forces it on.
        const URING_CMD_COMP_IN_TASK = 1 << 1;
        /// A write is announced first; the server then names the buffer and asks for the data.
        const NEED_GET_DATA = 1 << 2;
        /// The device outlives its server. New requests wait for the next one; those in flight fail.
        const USER_RECOVERY = 1 << 3;
        /// With `USER_RECOVERY`: requests in flight are issued again to the next server.
        const USER_RECOVERY_REISSUE = 1 << 4;
        /// The device belongs to the user who adds it, who needs no privilege.
        const UNPRIVILEGED_DEV = 1 << 5;
        /// Command numbers are ioctl-encoded. The driver forces it on.
        const CMD_IOCTL_ENCODE = 1 << 6;
        /// Data moves by `pread`/`pwrite` on `/dev/ublkcN`, at the positions of [`crate::IoBufPosition`].
        const USER_COPY = 1 << 7;
        /// A zoned device.
        const ZONED = 1 << 8;
        /// With `USER_RECOVERY`: requests fail while there is no server.
        const USER_RECOVERY_FAIL_IO = 1 << 9;
        /// The size can change while the device lives.
        const UPDATE_SIZE = 1 << 10;
        /// The driver registers a request's pages with the ring by itself; see [`crate::AutoBufReg`].
        const AUTO_BUF_REG = 1 << 11;
        /// The device can be quiesced, for an upgrade of its server. Needs `USER_RECOVERY`.
        const QUIESCE = 1 << 12;
        /// Each tag, not each queue, has a task of its own that serves it.
        const PER_IO_DAEMON = 1 << 13;
        /// Buffers may be registered and unregistered by any task.
        const BUF_REG_OFF_DAEMON = 1 << 14;
        /// Requests are delivered and committed in batches; see [`crate::BatchIo`].
        const BATCH_IO = 1 << 15;
        /// Requests carry an integrity buffer. Needs `USER_COPY`.
        const INTEGRITY = 1 << 16;
        /// The device can be stopped only if nobody has it open.
        const SAFE_STOP_DEV = 1 << 17;
        /// No scan for partitions when the device starts.
        const NO_AUTO_PART_SCAN = 1 << 18;
        /// Memory shared with the device's users is recognised and needs no copy; see [`crate::ShmemBufReg`].
        const SHMEM_ZC = 1 << 19;
    }
}

/// A Linux release, `major.minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelRelease {
    /// 6 of 6.12.
    pub major: u8,
    /// 12 of 6.12.
    pub minor: u8,
}

impl fmt::Display for KernelRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a person may want to know of one feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureInfo {
    /// The flag: exactly one bit.
    pub flag: Features,
    /// The kernel's name without `UBLK_F_`.
    pub name: &'static str,
    /// The name in the header.
    pub kernel_name: &'static str,
    /// First release of mainline Linux in which the feature works. Distributions backport: ask the kernel
    /// (`CtrlOp::GetFeatures`), and use this only in messages.
    pub since: KernelRelease,
    /// The same as text: `6.16`.
    pub since_text: &'static str,
}

impl FeatureInfo {
    /// Number of the flag's bit, 0 to 63.
    pub const fn bit(&self) -> u32 {
        self.flag.bits().trailing_zeros()
    }
}

macro_rules! features {
    ($($FLAG:ident ($major:literal, $minor:literal),)+) => {
        &[$(FeatureInfo {
            flag: Features::$FLAG,
            name: stringify!($FLAG),
            kernel_name: concat!("UBLK_F_", stringify!($FLAG)),
            since: KernelRelease { major: $major, minor: $minor },
            since_text: concat!($major, ".", $minor),
        },)+]
    };
}

/// Every feature of Linux 7.2, by bit.
///
/// `SUPPORT_ZERO_COPY` has its bit since 6.0, and works since 6.15.
pub const FEATURES: &[FeatureInfo] = features![
    SUPPORT_ZERO_COPY(6, 15),
    URING_CMD_COMP_IN_TASK(6, 0),
    NEED_GET_DATA(6, 0),
    USER_RECOVERY(6, 1),
    USER_RECOVERY_REISSUE(6, 1),
    UNPRIVILEGED_DEV(6, 3),
    CMD_IOCTL_ENCODE(6, 4),
    USER_COPY(6, 5),
    ZONED(6, 6),
    USER_RECOVERY_FAIL_IO(6, 13),
    UPDATE_SIZE(6, 16),
    AUTO_BUF_REG(6, 16),
    QUIESCE(6, 16),
    PER_IO_DAEMON(6, 16),
    BUF_REG_OFF_DAEMON(6, 17),
    BATCH_IO(7, 0),
    INTEGRITY(7, 0),
    SAFE_STOP_DEV(7, 0),
    NO_AUTO_PART_SCAN(7, 0),
    SHMEM_ZC(7, 1),
];
