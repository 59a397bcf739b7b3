//! Positions and lengths in the block layer's own unit.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of one sector: always 512, whatever the logical block size of the device. Kernel: `SECTOR_SIZE`.
pub const SECTOR_BYTES: u64 = 1 << SECTOR_SHIFT;

/// `log2` of [`SECTOR_BYTES`]. Kernel: `SECTOR_SHIFT`.
pub const SECTOR_SHIFT: u32 = 9;

/// A position or length in sectors of 512 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Sectors(pub u64);

impl Sectors {
    /// The same in bytes. Saturates: no device reaches 2^64 bytes, so a bogus position stays out of range.
    #[inline]
    pub const fn to_bytes(self) -> u64 {
        self.0.saturating_mul(SECTOR_BYTES)
    }

    /// `None` unless `bytes` is a multiple of 512.
    #[inline]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_multiple_of(SECTOR_BYTES) { Some(Self(bytes >> SECTOR_SHIFT)) } else { None }
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sectors", self.0)
    }
}
