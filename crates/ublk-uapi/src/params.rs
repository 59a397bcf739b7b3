//! Parameters of a device: what its block device looks like to the block layer.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::integrity::ParamIntegrity;
use crate::kernel_flags::kernel_flags;
use crate::sectors::Sectors;

/// Least bytes of a segment and of its boundary. Kernel: `UBLK_MIN_SEGMENT_SIZE`.
pub const MIN_SEGMENT_BYTES: u32 = 4096;

kernel_flags! {
    /// Attributes of the block device.
    struct Attrs: u32, "UBLK_ATTR_" {
        /// Nothing can be written.
        const READ_ONLY = 1 << 0;
        /// Seeks cost time.
        const ROTATIONAL = 1 << 1;
        /// A completed write may be lost until a flush; without this no flush is ever sent.
        const VOLATILE_CACHE = 1 << 2;
        /// Writes with FUA are sent as such. Only with `VOLATILE_CACHE`; without this, the block layer flushes after the write.
        const FUA = 1 << 3;
    }
}

kernel_flags! {
    /// Which parts of [`Params`] are meant.
    struct ParamTypes: u32, "UBLK_PARAM_TYPE_" {
        /// [`ParamBasic`]; `SetParams` insists on it.
        const BASIC = 1 << 0;
        /// [`ParamDiscard`].
        const DISCARD = 1 << 1;
        /// [`ParamDevt`]; `SetParams` refuses it.
        const DEVT = 1 << 2;
        /// [`ParamZoned`]; needed by a zoned device.
        const ZONED = 1 << 3;
        /// [`ParamDmaAlign`].
        const DMA_ALIGN = 1 << 4;
        /// [`ParamSegment`].
        const SEGMENT = 1 << 5;
        /// [`ParamIntegrity`]. Needs `Features::INTEGRITY`.
        const INTEGRITY = 1 << 6;
    }
}

/// Size, blocks and attributes. Kernel: `struct ublk_param_basic`, 32 bytes.
///
/// A shift is the `log2` of a number of bytes; each is at most 28 (256 MiB).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ParamBasic {
    /// Attributes.
    pub attrs: Attrs,
    /// Smallest I/O, as a shift: 9 to that of a page.
    pub logical_bs_shift: u8,
    /// Smallest I/O without read-modify-write, as a shift; at least the logical one.
    pub physical_bs_shift: u8,
    /// Best I/O size, as a shift.
    pub io_opt_shift: u8,
    /// Smallest I/O size that is not slow, as a shift.
    pub io_min_shift: u8,
    /// Largest request in sectors of 512 bytes: one page to `DevInfo::max_io_buf_bytes`.
    pub max_sectors: u32,
    /// Sectors of a chunk that no request crosses, 0 for none; of a zoned device the sectors of a zone, a power of two.
    pub chunk_sectors: u32,
    /// Size of the device.
    pub dev_sectors: Sectors,
    /// Bytes of the boundary that segments of a request align to, minus one; 0 for none.
    pub virt_boundary_mask: u64,
}

/// Discard and write-zeroes. Kernel: `struct ublk_param_discard`, 20 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ParamDiscard {
    /// Bytes from the device's start to the first unit that can be discarded.
    pub discard_alignment: u32,
    /// Bytes of the unit that can be discarded; not 0.
    pub discard_granularity: u32,
    /// Largest discard in sectors of 512 bytes; 0 for none at all.
    pub max_discard_sectors: u32,
    /// Largest write-zeroes in sectors of 512 bytes; 0 for none at all.
    pub max_write_zeroes_sectors: u32,
    /// 1, if there is discard.
    pub max_discard_segments: u16,
    /// Zero.
    pub reserved0: u16,
}

/// Numbers of the device files; filled by the kernel. Kernel: `struct ublk_param_devt`, 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ParamDevt {
    /// Major number of `/dev/ublkcN`.
    pub char_major: u32,
    /// Minor number of `/dev/ublkcN`.
    pub char_minor: u32,
    /// Major number of `/dev/ublkbN`; 0 before the start.
    pub disk_major: u32,
    /// Minor number of `/dev/ublkbN`; 0 before the start.
    pub disk_minor: u32,
}

/// Limits of a zoned device. Kernel: `struct ublk_param_zoned`, 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ParamZoned {
    /// Most open zones; 0 for no limit.
    pub max_open_zones: u32,
    /// Most active zones; 0 for no limit.
    pub max_active_zones: u32,
    /// Largest append in sectors of 512 bytes; not 0.
    pub max_zone_append_sectors: u32,
    /// Zero.
    pub reserved: [u8; 20],
}

/// Alignment of the memory of requests. Kernel: `struct ublk_param_dma_align`, 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ParamDmaAlign {
    /// Bytes of the alignment minus one; below the page size.
    pub alignment: u32,
    /// Zero.
    pub pad: [u8; 4],
}

/// Shape of the segments of a request. Kernel: `struct ublk_param_segment`, 16 bytes. None of the three may be 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ParamSegment {
    /// Bytes of the boundary that no segment crosses, minus one: a power of two, at least [`MIN_SEGMENT_BYTES`], minus one.
    pub seg_boundary_mask: u64,
    /// Largest segment in bytes, at least [`MIN_SEGMENT_BYTES`].
    pub max_segment_size: u32,
    /// Most segments of a request.
    pub max_segments: u16,
    /// Zero.
    pub pad: [u8; 2],
}

/// Every parameter of a device. Kernel: `struct ublk_params`, 152 bytes.
///
/// [`Params::new`] and the `with_…` methods keep `len` and `types` right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Params {
    /// Bytes of this struct that both sides use; never 0. An older kernel reads only its own, shorter one.
    pub len: u32,
    /// Which parts are meant; the kernel clears those it does not know.
    pub types: ParamTypes,
    /// With [`ParamTypes::BASIC`].
    pub basic: ParamBasic,
    /// With [`ParamTypes::DISCARD`].
    pub discard: ParamDiscard,
    /// With [`ParamTypes::DEVT`].
    pub devt: ParamDevt,
    /// With [`ParamTypes::ZONED`].
    pub zoned: ParamZoned,
    /// With [`ParamTypes::DMA_ALIGN`]. Kernel: `dma`.
    pub dma_align: ParamDmaAlign,
    /// Zero: the hole that the C compiler leaves before `seg`.
    pub hole: [u8; 4],
    /// With [`ParamTypes::SEGMENT`]. Kernel: `seg`.
    pub segment: ParamSegment,
    /// With [`ParamTypes::INTEGRITY`].
    pub integrity: ParamIntegrity,
}

impl Params {
    /// Parameters for `SetParams`, so far with the part that it insists on.
    pub fn new(basic: ParamBasic) -> Self {
        Self { types: ParamTypes::BASIC, basic, ..Self::request() }
    }

    /// An empty struct for `GetParams` to fill.
    pub fn request() -> Self {
        Self { len: size_of::<Self>() as u32, ..Self::default() }
    }

    /// The same with discard and write-zeroes.
    pub fn with_discard(self, discard: ParamDiscard) -> Self {
        Self { types: self.types | ParamTypes::DISCARD, discard, ..self }
    }

    /// The same with the limits of a zoned device.
    pub fn with_zoned(self, zoned: ParamZoned) -> Self {
        Self { types: self.types | ParamTypes::ZONED, zoned, ..self }
    }

    /// The same with an alignment of memory.
    pub fn with_dma_align(self, dma_align: ParamDmaAlign) -> Self {
        Self { types: self.types | ParamTypes::DMA_ALIGN, dma_align, ..self }
    }

    /// The same with a shape of segments.
    pub fn with_segment(self, segment: ParamSegment) -> Self {
        Self { types: self.types | ParamTypes::SEGMENT, segment, ..self }
    }

    /// The same with integrity data.
    pub fn with_integrity(self, integrity: ParamIntegrity) -> Self {
        Self { types: self.types | ParamTypes::INTEGRITY, integrity, ..self }
    }
}

const _: () = assert!(size_of::<ParamBasic>() == 32 && size_of::<ParamDiscard>() == 20);
const _: () = assert!(size_of::<ParamDevt>() == 16 && size_of::<ParamZoned>() == 32);
const _: () = assert!(size_of::<ParamDmaAlign>() == 8 && size_of::<ParamSegment>() == 16);
const _: () = assert!(size_of::<Params>() == 152);
