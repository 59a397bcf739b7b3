//! Registration of a request's pages by the driver itself: which fixed buffer of the ring they become.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kernel_flags::kernel_flags;

kernel_flags! {
    /// Options of [`AutoBufReg`].
    struct AutoBufRegFlags: u8, "UBLK_AUTO_BUF_REG_" {
        /// If the pages cannot be registered, deliver the request with [`crate::IoFlags::NEED_REG_BUF`];
        /// without this the request fails silently.
        const FALLBACK = 1 << 0;
    }
}

/// Which fixed buffer a tag's pages become. Travels in the `addr` of the SQE of a fetch or commit. Kernel:
/// `struct ublk_auto_buf_reg`, 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AutoBufReg {
    /// Index in the ring's table of fixed buffers.
    pub index: u16,
    /// Options.
    pub flags: AutoBufRegFlags,
    /// Zero, or the command is refused.
    pub reserved0: u8,
    /// Zero, or the command is refused.
    pub reserved1: u32,
}

impl AutoBufReg {
    /// Fixed buffer `index`, with `flags`.
    pub const fn new(index: u16, flags: AutoBufRegFlags) -> Self {
        Self { index, flags, reserved0: 0, reserved1: 0 }
    }

    /// For the SQE's `addr`: index in bits 0 to 15, flags in 16 to 23, reserved above. Kernel:
    /// `ublk_auto_buf_reg_to_sqe_addr`.
    #[inline]
    pub const fn to_sqe_addr(self) -> u64 {
        self.index as u64
            | (self.flags.bits() as u64) << 16
            | (self.reserved0 as u64) << 24
            | (self.reserved1 as u64) << 32
    }

    /// From an SQE's `addr`. Kernel: `ublk_sqe_addr_to_auto_buf_reg`.
    #[inline]
    pub const fn from_sqe_addr(addr: u64) -> Self {
        Self {
            index: addr as u16,
            flags: AutoBufRegFlags::from_bits_retain((addr >> 16) as u8),
            reserved0: (addr >> 24) as u8,
            reserved1: (addr >> 32) as u32,
        }
    }
}

const _: () = assert!(size_of::<AutoBufReg>() == 8);
