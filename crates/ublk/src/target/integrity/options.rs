//! What integrity data a device has, and what cannot be: the driver's and the block layer's rules, said before they answer EINVAL.

use ublk_uapi::{IntegrityCapabilities, IntegrityChecksum, ParamIntegrity, SECTOR_SHIFT};

use crate::Error;

/// Integrity data of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Integrity {
    /// Bytes of data to one tuple of metadata: a power of two from 512 to the logical block.
    pub interval_bytes: u32,
    /// Bytes of metadata to an interval, 1 to 255.
    pub metadata_bytes: u8,
    /// What the protection information has as a checksum; none: there is no protection information, just metadata.
    pub checksum: IntegrityChecksum,
    /// Place of the protection information in the metadata.
    pub pi_offset_bytes: u8,
    /// Bytes of the application's tag.
    pub tag_bytes: u8,
    /// The reference tag holds the place of the data.
    pub ref_tag: bool,
    /// Say that the device checks by itself.
    pub capable: bool,
}

impl Integrity {
    /// For requests of `length` bytes of data, so many of metadata.
    pub(super) fn metadata_length(&self, length: u64) -> u64 {
        length / u64::from(self.interval_bytes) * u64::from(self.metadata_bytes)
    }

    /// What parameters say; None if they name a checksum that is not known here.
    pub(crate) fn of(param: &ParamIntegrity) -> Option<Integrity> {
        Some(Integrity {
            interval_bytes: 1_u32.checked_shl(param.interval_exp.into())?,
            metadata_bytes: param.metadata_size,
            checksum: param.checksum().ok()?,
            pi_offset_bytes: param.pi_offset,
            tag_bytes: param.tag_size,
            ref_tag: param.flags.contains(IntegrityCapabilities::REFTAG),
            capable: param.flags.contains(IntegrityCapabilities::INTEGRITY),
        })
    }

    /// The parameters that the driver is told.
    pub(crate) fn param(&self) -> ParamIntegrity {
        let mut flags = IntegrityCapabilities::empty();
        flags.set(IntegrityCapabilities::INTEGRITY, self.capable);
        flags.set(IntegrityCapabilities::REFTAG, self.ref_tag);
        ParamIntegrity {
            flags,
            interval_exp: self.interval_bytes.ilog2() as u8,
            metadata_size: self.metadata_bytes,
            pi_offset: self.pi_offset_bytes,
            csum_type: self.checksum.code(),
            tag_size: self.tag_bytes,
            ..ParamIntegrity::default()
        }
    }

    /// Refuses what the driver would.
    pub(crate) fn check(&self, logical_block_bytes: u32) -> Result<(), Error> {
        let &Integrity { interval_bytes, metadata_bytes, checksum, pi_offset_bytes, tag_bytes, .. } = self;
        let tuple_bytes = checksum.tuple_bytes();
        let name = checksum.name();
        let tag_room = self.tag_room();
        let rule = if !interval_bytes.is_power_of_two()
            || interval_bytes < 1 << SECTOR_SHIFT
            || interval_bytes > logical_block_bytes
        {
            format!(
                "an interval of integrity data is a power of two from 512 to the logical block {logical_block_bytes}, not {interval_bytes}"
            )
        } else if metadata_bytes == 0 {
            "integrity data has at least one byte per interval".into()
        } else if u16::from(pi_offset_bytes) + u16::from(tuple_bytes) > metadata_bytes.into() {
            format!(
                "protection information of {name} has {tuple_bytes} bytes, from {pi_offset_bytes} on: more than the {metadata_bytes} of the metadata"
            )
        } else if checksum == IntegrityChecksum::None && self.ref_tag {
            "a reference tag needs a checksum".into()
        } else if tag_bytes > tag_room {
            format!("a tag of {tag_bytes} bytes is more than the {tag_room} that {name} leaves to the application")
        } else {
            return Ok(());
        };
        Err(Error::BadOption { rule })
    }

    /// Bytes of the application's own: in a tuple all but the checksum, and but the reference tag if it is in use.
    fn tag_room(&self) -> u8 {
        match (self.checksum, self.ref_tag) {
            (IntegrityChecksum::None, _) => self.metadata_bytes,
            (_, true) => 2,
            (IntegrityChecksum::Crc64Nvme, false) => 8,
            (_, false) => 6,
        }
    }
}
