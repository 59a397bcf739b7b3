//! Integrity data: the metadata that accompanies each interval of a device's data.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kernel_enum::{UnknownCode, kernel_enum};
use crate::kernel_flags::kernel_flags;

kernel_flags! {
    /// What the protection information can do (`linux/fs.h`).
    struct IntegrityCapabilities: u32, "LBMD_PI_CAP_" {
        /// The device checks it by itself.
        const INTEGRITY = 1 << 0;
        /// The reference tag holds the place of the data. Only with a checksum.
        const REFTAG = 1 << 1;
    }
}

kernel_enum! {
    /// Checksum of the protection information (`linux/fs.h`).
    enum IntegrityChecksum: u8, "LBMD_PI_CSUM_" {
        /// No protection information.
        None = 0 => "NONE",
        /// The Internet's checksum, in a tuple of 8 bytes.
        Ip = 1 => "IP",
        /// T10's CRC-16, in a tuple of 8 bytes.
        Crc16T10Dif = 2 => "CRC16_T10DIF",
        /// NVMe's CRC-64, in a tuple of 16 bytes.
        Crc64Nvme = 4 => "CRC64_NVME",
    }
}

impl IntegrityChecksum {
    /// Bytes of the protection information of an interval: 0, 8 or 16. See `ublk_integrity_pi_tuple_size` in `ublk_drv.c`.
    pub const fn tuple_bytes(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Ip | Self::Crc16T10Dif => 8,
            Self::Crc64Nvme => 16,
        }
    }
}

/// Integrity data of the device. Kernel: `struct ublk_param_integrity`, 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ParamIntegrity {
    /// What the protection information can do.
    pub flags: IntegrityCapabilities,
    /// Most segments of a request's integrity buffer; 0 for no limit.
    pub max_integrity_segments: u16,
    /// Bytes of data to one tuple of metadata, as a shift: 9 to that of the logical block.
    pub interval_exp: u8,
    /// Bytes of metadata to an interval; not 0.
    pub metadata_size: u8,
    /// Place of the protection information in the metadata, in bytes.
    pub pi_offset: u8,
    /// Number of an [`IntegrityChecksum`]; see [`ParamIntegrity::checksum`].
    pub csum_type: u8,
    /// Bytes of the application's tag.
    pub tag_size: u8,
    /// Zero.
    pub pad: [u8; 5],
}

impl ParamIntegrity {
    /// The checksum.
    ///
    /// # Errors
    /// [`UnknownCode`] for a checksum that Linux 7.2 does not have.
    pub fn checksum(&self) -> Result<IntegrityChecksum, UnknownCode> {
        IntegrityChecksum::try_from(self.csum_type)
    }
}

const _: () = assert!(size_of::<ParamIntegrity>() == 16);
