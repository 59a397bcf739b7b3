//! The descriptor of a request: what the driver writes for each tag, and the server reads.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kernel_enum::{UnknownCode, kernel_enum};
use crate::kernel_flags::kernel_flags;
use crate::sectors::Sectors;

kernel_enum! {
    /// What a request wants done.
    enum IoOp: u8, "UBLK_IO_OP_" {
        /// Fill the buffer from the range.
        Read = 0 => "READ",
        /// Store the buffer in the range.
        Write = 1 => "WRITE",
        /// Make every completed write durable. No range, no buffer.
        Flush = 2 => "FLUSH",
        /// The range's content is no longer needed. No buffer.
        Discard = 3 => "DISCARD",
        /// In the header only; the driver of Linux 7.2 never sends it.
        WriteSame = 4 => "WRITE_SAME",
        /// The range reads as zeros afterwards. No buffer.
        WriteZeroes = 5 => "WRITE_ZEROES",
        /// Open the zone at the range's start.
        ZoneOpen = 10 => "ZONE_OPEN",
        /// Close the zone at the range's start.
        ZoneClose = 11 => "ZONE_CLOSE",
        /// Fill the zone at the range's start: its write pointer goes to its end.
        ZoneFinish = 12 => "ZONE_FINISH",
        /// Store the buffer at the zone's write pointer, and say where in the commit.
        ZoneAppend = 13 => "ZONE_APPEND",
        /// Empty every zone.
        ZoneResetAll = 14 => "ZONE_RESET_ALL",
        /// Empty the zone at the range's start.
        ZoneReset = 15 => "ZONE_RESET",
        /// Fill the buffer with up to `nr_zones` [`crate::Zone`] entries from the zone at `start_sector`; a zeroed entry ends it.
        ReportZones = 18 => "REPORT_ZONES",
    }
}

impl fmt::Display for IoOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

kernel_flags! {
    /// How a request wants it done: bits 8 to 31 of `IoDesc::op_flags`, in place (not shifted down).
    struct IoFlags: u32, "UBLK_IO_F_" {
        /// Do not retry after an error of the device.
        const FAILFAST_DEV = 1 << 8;
        /// Do not retry after an error of the transport.
        const FAILFAST_TRANSPORT = 1 << 9;
        /// Do not retry after an error of the driver.
        const FAILFAST_DRIVER = 1 << 10;
        /// Metadata of a file system.
        const META = 1 << 11;
        /// Durable when the request completes.
        const FUA = 1 << 13;
        /// Of `WriteZeroes`: keep the range allocated.
        const NOUNMAP = 1 << 15;
        /// A page of swap.
        const SWAP = 1 << 16;
        /// The pages could not be registered by the driver: the server must do it. Only where it asked for the
        /// fall-back ([`crate::AutoBufRegFlags::FALLBACK`]).
        const NEED_REG_BUF = 1 << 17;
        /// The request has an integrity buffer.
        const INTEGRITY = 1 << 18;
        /// `IoDesc::addr` is a [`crate::ShmemPosition`] and not an address.
        const SHMEM_ZC = 1 << 19;
    }
}

/// One request, in the slot of its tag in the queue's mapped descriptor area. Kernel:
/// `struct ublksrv_io_desc`, 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoDesc {
    /// Operation in bits 0 to 7, flags in bits 8 to 31.
    pub op_flags: u32,
    /// Length in sectors of 512 bytes; of `ReportZones`, the number of zones (kernel: `nr_zones`, the other half
    /// of the union).
    pub nr_sectors: u32,
    /// First sector of the range.
    pub start_sector: Sectors,
    /// Address of the data in the server; with [`IoFlags::SHMEM_ZC`] a [`crate::ShmemPosition`].
    pub addr: u64,
}

impl IoDesc {
    const OP_MASK: u32 = 0xff;

    /// The operation. Kernel: `ublksrv_get_op`.
    ///
    /// # Errors
    /// [`UnknownCode`] for an operation that Linux 7.2 does not have.
    #[inline]
    pub fn op(&self) -> Result<IoOp, UnknownCode> {
        IoOp::try_from(self.op_code())
    }

    /// Number of the operation. Kernel: `ublksrv_get_op`.
    #[inline]
    pub const fn op_code(&self) -> u8 {
        (self.op_flags & Self::OP_MASK) as u8
    }

    /// The flags, in place: they compare with the kernel's `UBLK_IO_F_*`, which the shifted result of the
    /// kernel's `ublksrv_get_flags` does not.
    #[inline]
    pub const fn flags(&self) -> IoFlags {
        IoFlags::from_bits_retain(self.op_flags & !Self::OP_MASK)
    }

    /// Length of the range.
    #[inline]
    pub const fn length(&self) -> Sectors {
        Sectors(self.nr_sectors as u64)
    }

    /// Most zones that the report may have. Only of [`IoOp::ReportZones`].
    #[inline]
    pub const fn nr_zones(&self) -> u32 {
        self.nr_sectors
    }
}

const _: () = assert!(size_of::<IoDesc>() == 24 && align_of::<IoDesc>() == 8);
