//! Memory shared with a device's users: registered once, then recognised in requests without a copy.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kernel_flags::kernel_flags;

/// Most bytes of a registered buffer: 4 GiB. Kernel: `UBLK_SHMEM_BUF_SIZE_MAX` in `ublk_drv.c`.
pub const SHMEM_MAX_BUF_BYTES: u64 = 1 << 32;

/// Bits of the byte in the buffer. Kernel: `UBLK_SHMEM_ZC_OFF_MASK`.
pub const SHMEM_ZC_OFFSET_MASK: u64 = 0xffff_ffff;
/// Lowest bit of the index of the buffer. Kernel: `UBLK_SHMEM_ZC_IDX_OFF`.
pub const SHMEM_ZC_INDEX_SHIFT: u32 = 32;
/// Kernel: `UBLK_SHMEM_ZC_IDX_MASK`, not shifted.
pub const SHMEM_ZC_INDEX_MASK: u64 = 0xffff;

kernel_flags! {
    /// Options of [`ShmemBufReg`].
    struct ShmemBufFlags: u32, "UBLK_SHMEM_BUF_" {
        /// The driver pins the pages without the right to write; a write-sealed memfd will do.
        const READ_ONLY = 1 << 0;
    }
}

/// The buffer to register, which `CtrlCmd::addr` of `RegBuf` points to. Kernel: `struct ublk_shmem_buf_reg`, 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShmemBufReg {
    /// Address in the calling process; whole pages.
    pub addr: u64,
    /// Bytes; whole pages, at most [`SHMEM_MAX_BUF_BYTES`].
    pub len: u64,
    /// Options.
    pub flags: ShmemBufFlags,
    /// Zero.
    pub reserved: u32,
}

/// Where a request's data lies: what `IoDesc::addr` holds under [`crate::IoFlags::SHMEM_ZC`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ShmemPosition {
    /// Index that `RegBuf` returned.
    pub index: u16,
    /// Byte in the buffer.
    pub offset_bytes: u32,
}

impl ShmemPosition {
    /// The `addr` of a descriptor. Kernel: `ublk_shmem_zc_addr`.
    pub const fn to_addr(self) -> u64 {
        (self.index as u64) << SHMEM_ZC_INDEX_SHIFT | self.offset_bytes as u64
    }

    /// From the `addr` of a descriptor; bits 48 to 63 are reserved and not looked at. Kernel:
    /// `ublk_shmem_zc_index` and `ublk_shmem_zc_offset`.
    pub const fn from_addr(addr: u64) -> Self {
        Self {
            index: (addr >> SHMEM_ZC_INDEX_SHIFT & SHMEM_ZC_INDEX_MASK) as u16,
            offset_bytes: (addr & SHMEM_ZC_OFFSET_MASK) as u32,
        }
    }
}

const _: () = assert!(size_of::<ShmemBufReg>() == 24);
