//! Batches: many tags in one command (`Features::BATCH_IO`).
//!
//! `PrepIoCmds` and `CommitIoCmds` point the SQE's `addr` to `nr_elem` elements, one after the other. An element is an
//! [`ElemHeader`], then the buffer's address if `HAS_BUF_ADDR`, then the append's sector if `HAS_ZONE_LBA`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kernel_flags::kernel_flags;

/// Bytes of one element of what `FetchIoCmds` brings: a tag, `u16`. It is also the `elem_bytes` that the command insists on.
pub const BATCH_FETCH_ELEM_BYTES: u8 = 2;

kernel_flags! {
    /// What the elements of a batch hold beside their header.
    struct BatchFlags: u16, "UBLK_BATCH_F_" {
        /// The sector where a zone append went, `u64`. Only of a zoned device.
        const HAS_ZONE_LBA = 1 << 0;
        /// The address of the tag's buffer, `u64`. Only where the driver copies.
        const HAS_BUF_ADDR = 1 << 1;
        /// [`crate::AutoBufRegFlags::FALLBACK`] for every element. Not with `HAS_BUF_ADDR`.
        const AUTO_BUF_REG_FALLBACK = 1 << 2;
    }
}

impl BatchFlags {
    const FIELD_BYTES: usize = size_of::<u64>();

    /// Place of the buffer's address in an element, in bytes; `None` if elements have none.
    pub const fn buf_addr_offset_bytes(self) -> Option<usize> {
        if self.contains(Self::HAS_BUF_ADDR) { Some(size_of::<ElemHeader>()) } else { None }
    }

    /// Place of the append's sector in an element, in bytes; `None` if elements have none.
    pub const fn zone_lba_offset_bytes(self) -> Option<usize> {
        if !self.contains(Self::HAS_ZONE_LBA) {
            return None;
        }
        match self.buf_addr_offset_bytes() {
            Some(buf_addr) => Some(buf_addr + Self::FIELD_BYTES),
            None => Some(size_of::<ElemHeader>()),
        }
    }

    /// Bytes of one element: 8, 16 or 24.
    pub const fn elem_bytes(self) -> u8 {
        let mut bytes = size_of::<ElemHeader>();
        if self.contains(Self::HAS_BUF_ADDR) {
            bytes += Self::FIELD_BYTES;
        }
        if self.contains(Self::HAS_ZONE_LBA) {
            bytes += Self::FIELD_BYTES;
        }
        bytes as u8
    }
}

/// The argument of a batch command; fills the command area of a 64-byte SQE. Kernel: `struct ublk_batch_io`, 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BatchIo {
    /// Hardware queue.
    pub q_id: u16,
    /// What the elements hold.
    pub flags: BatchFlags,
    /// Number of elements, at most the queue's depth.
    pub nr_elem: u16,
    /// Bytes of one element; must agree with `flags`.
    pub elem_bytes: u8,
    /// Zero.
    pub reserved: u8,
    /// Zero.
    pub reserved2: u64,
}

impl BatchIo {
    /// Bytes of the command area of a 64-byte SQE.
    pub const SQE_BYTES: usize = 16;

    /// The argument of `PrepIoCmds` or `CommitIoCmds` for `nr_elem` elements.
    pub const fn of_elements(q_id: u16, flags: BatchFlags, nr_elem: u16) -> Self {
        Self { q_id, flags, nr_elem, elem_bytes: flags.elem_bytes(), reserved: 0, reserved2: 0 }
    }

    /// The argument of `FetchIoCmds`.
    pub const fn fetch(q_id: u16) -> Self {
        Self {
            q_id,
            flags: BatchFlags::empty(),
            nr_elem: 0,
            elem_bytes: BATCH_FETCH_ELEM_BYTES,
            reserved: 0,
            reserved2: 0,
        }
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

/// Start of each element of a batch. Kernel: `struct ublk_elem_header`, 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ElemHeader {
    /// Slot of the queue.
    pub tag: u16,
    /// Fixed buffer that the tag's next request becomes. Only with `AUTO_BUF_REG`.
    pub buf_index: u16,
    /// Answer of a commit: bytes done, or -errno.
    pub result: i32,
}

const _: () = assert!(size_of::<BatchIo>() == 16 && size_of::<ElemHeader>() == 8);
