//! Zones: the answer to `IoOp::ReportZones`, from `linux/blkzoned.h`, which the header counts as its own.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kernel_enum::{UnknownCode, kernel_enum};
use crate::sectors::Sectors;

kernel_enum! {
    /// How a zone is written.
    enum ZoneType: u8, "BLK_ZONE_TYPE_" {
        /// Anywhere; no write pointer.
        Conventional = 1 => "CONVENTIONAL",
        /// At the write pointer only.
        SequentialRequired = 2 => "SEQWRITE_REQ",
        /// Best at the write pointer.
        SequentialPreferred = 3 => "SEQWRITE_PREF",
    }
}

kernel_enum! {
    /// State of a zone.
    enum ZoneCond: u8, "BLK_ZONE_COND_" {
        /// Conventional: no write pointer.
        NotWritePointer = 0x0 => "NOT_WP",
        /// Nothing written.
        Empty = 0x1 => "EMPTY",
        /// Opened by a write.
        ImplicitOpen = 0x2 => "IMP_OPEN",
        /// Opened by `IoOp::ZoneOpen`.
        ExplicitOpen = 0x3 => "EXP_OPEN",
        /// Closed after writing.
        Closed = 0x4 => "CLOSED",
        /// Can be read only.
        ReadOnly = 0xd => "READONLY",
        /// Full.
        Full = 0xe => "FULL",
        /// Cannot be read or written.
        Offline = 0xf => "OFFLINE",
        /// Any of the open ones or closed; only in reports from the block layer's cache, never in a device's own.
        Active = 0xff => "ACTIVE",
    }
}

/// One zone of a report. Kernel: `struct blk_zone`, 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Zone {
    /// First sector.
    pub start: Sectors,
    /// Length.
    pub len: Sectors,
    /// Position of the write pointer.
    pub wp: Sectors,
    /// Number of a [`ZoneType`]. Kernel: `type`.
    pub zone_type: u8,
    /// Number of a [`ZoneCond`].
    pub cond: u8,
    /// 1 if resources for non-sequential writes are in use.
    pub non_seq: u8,
    /// 1 if a reset is recommended.
    pub reset: u8,
    /// Zero.
    pub resv: [u8; 4],
    /// Sectors that can be written, at most `len`.
    pub capacity: Sectors,
    /// Zero.
    pub reserved: [u8; 24],
}

impl Zone {
    /// How the zone is written.
    ///
    /// # Errors
    /// [`UnknownCode`] for a type that Linux 7.2 does not have; 0 ends a report.
    pub fn zone_type(&self) -> Result<ZoneType, UnknownCode> {
        ZoneType::try_from(self.zone_type)
    }

    /// State of the zone.
    ///
    /// # Errors
    /// [`UnknownCode`] for a state that Linux 7.2 does not have.
    pub fn cond(&self) -> Result<ZoneCond, UnknownCode> {
        ZoneCond::try_from(self.cond)
    }
}

const _: () = assert!(size_of::<Zone>() == 64);
