//! Positions in `/dev/ublkcN`: descriptor areas to map, and requests' data to `pread` and `pwrite`.
//!
//! ```text
//! 0x0000_0000  descriptor area of queue 0, of queue 1, … at a stride that does not depend on the depth
//! 0x8000_0000  data of (queue, tag): bits 0-24 byte in the request, 25-40 tag, 41-52 queue
//! bit 62       the same for the request's integrity buffer
//! ```

use crate::request::IoDesc;

/// Where the descriptor areas begin. Kernel: `UBLKSRV_CMD_BUF_OFFSET`.
pub const CMD_BUF_OFFSET_BYTES: u64 = 0;

/// Where the requests' data begins. Kernel: `UBLKSRV_IO_BUF_OFFSET`.
pub const IO_BUF_OFFSET_BYTES: u64 = 0x8000_0000;

/// Most tags of a queue. Kernel: `UBLK_MAX_QUEUE_DEPTH`.
pub const MAX_QUEUE_DEPTH: u16 = 4096;

/// Lowest bit of the byte in the request. Kernel: `UBLK_IO_BUF_OFF`.
pub const BUF_SHIFT: u32 = 0;
/// Bits of the byte in the request. Kernel: `UBLK_IO_BUF_BITS`.
pub const BUF_BITS: u32 = 25;
/// Kernel: `UBLK_IO_BUF_BITS_MASK`, not shifted.
pub const BUF_BITS_MASK: u64 = (1 << BUF_BITS) - 1;
/// Most bytes of a request: 32 MiB.
pub const MAX_IO_BUF_BYTES: u32 = 1 << BUF_BITS;

/// Lowest bit of the tag. Kernel: `UBLK_TAG_OFF`.
pub const TAG_SHIFT: u32 = BUF_BITS;
/// Bits of the tag. Kernel: `UBLK_TAG_BITS`.
pub const TAG_BITS: u32 = 16;
/// Kernel: `UBLK_TAG_BITS_MASK`, not shifted.
pub const TAG_BITS_MASK: u64 = (1 << TAG_BITS) - 1;

/// Lowest bit of the queue. Kernel: `UBLK_QID_OFF`.
pub const QUEUE_ID_SHIFT: u32 = TAG_SHIFT + TAG_BITS;
/// Bits of the queue. Kernel: `UBLK_QID_BITS`.
pub const QUEUE_ID_BITS: u32 = 12;
/// Kernel: `UBLK_QID_BITS_MASK`, not shifted.
pub const QUEUE_ID_BITS_MASK: u64 = (1 << QUEUE_ID_BITS) - 1;

/// Most queues of a device. Kernel: `UBLK_MAX_NR_QUEUES`.
pub const MAX_NR_QUEUES: u16 = 1 << QUEUE_ID_BITS;

/// Bits of queue, tag and byte together. Kernel: `UBLKSRV_IO_BUF_TOTAL_BITS`.
pub const IO_BUF_TOTAL_BITS: u32 = QUEUE_ID_SHIFT + QUEUE_ID_BITS;
/// Bytes of the range of positions that starts at [`IO_BUF_OFFSET_BYTES`]. Kernel: `UBLKSRV_IO_BUF_TOTAL_SIZE`.
pub const IO_BUF_TOTAL_BYTES: u64 = 1 << IO_BUF_TOTAL_BITS;

/// Bit of [`INTEGRITY_FLAG`]. Kernel: `UBLK_INTEGRITY_FLAG_OFF`.
pub const INTEGRITY_FLAG_SHIFT: u32 = 62;
/// Set in the position of integrity data. Kernel: `UBLKSRV_IO_INTEGRITY_FLAG`.
pub const INTEGRITY_FLAG: u64 = 1 << INTEGRITY_FLAG_SHIFT;

/// Bytes to map for the descriptors of a queue of `depth` tags: the driver insists on exactly these.
///
/// `page_bytes` is the kernel's page size, a power of two. See `ublk_ch_mmap` in `ublk_drv.c`.
pub const fn descriptor_area_bytes(depth: u16, page_bytes: u64) -> u64 {
    assert!(page_bytes.is_power_of_two(), "a page size is a power of two");
    (depth as u64 * size_of::<IoDesc>() as u64).next_multiple_of(page_bytes)
}

/// Bytes from one queue's descriptor area to the next one's: that of the deepest queue there can be, whatever
/// the depth of this device. 98304 where a page has 4 KiB.
pub const fn descriptor_area_stride_bytes(page_bytes: u64) -> u64 {
    descriptor_area_bytes(MAX_QUEUE_DEPTH, page_bytes)
}

/// Where to map the descriptors of queue `queue_id`: the `offset` of `mmap` on `/dev/ublkcN`.
pub const fn descriptor_area_offset_bytes(queue_id: u16, page_bytes: u64) -> u64 {
    CMD_BUF_OFFSET_BYTES + queue_id as u64 * descriptor_area_stride_bytes(page_bytes)
}

/// A byte of a request's data, as `pread` and `pwrite` on `/dev/ublkcN` address it (`Features::USER_COPY`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IoBufPosition {
    /// Hardware queue, below [`MAX_NR_QUEUES`].
    pub queue_id: u16,
    /// Slot of the queue.
    pub tag: u16,
    /// Byte in the request, below [`MAX_IO_BUF_BYTES`].
    pub offset_bytes: u32,
    /// The integrity buffer and not the data (`Features::INTEGRITY`).
    pub integrity: bool,
}

/// A position that `/dev/ublkcN` does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffsetError {
    /// The queue does not fit into 12 bits.
    #[error("queue {0} has no position: a device has at most {MAX_NR_QUEUES} queues; pass the index of the queue")]
    QueueId(u16),
    /// The byte does not fit into 25 bits.
    #[error(
        "byte {0} of a request has no position: a request has at most {MAX_IO_BUF_BYTES} bytes; pass the offset in the request, not on the device"
    )]
    OffsetBytes(u32),
    /// The number is no position of data.
    #[error(
        "{0:#x} is no position of data: those are {IO_BUF_OFFSET_BYTES:#x} and the {IO_BUF_TOTAL_BYTES:#x} after it, with or without bit {INTEGRITY_FLAG_SHIFT}; make positions with pack()"
    )]
    Position(u64),
}

impl IoBufPosition {
    /// The offset for `pread` or `pwrite`.
    ///
    /// # Errors
    /// [`OffsetError`] when the queue or the byte is over its limit.
    #[inline]
    pub const fn pack(self) -> Result<u64, OffsetError> {
        if self.queue_id >= MAX_NR_QUEUES {
            return Err(OffsetError::QueueId(self.queue_id));
        }
        if self.offset_bytes >= MAX_IO_BUF_BYTES {
            return Err(OffsetError::OffsetBytes(self.offset_bytes));
        }
        let position = (self.queue_id as u64) << QUEUE_ID_SHIFT
            | (self.tag as u64) << TAG_SHIFT
            | (self.offset_bytes as u64) << BUF_SHIFT;
        let integrity = if self.integrity { INTEGRITY_FLAG } else { 0 };
        Ok((IO_BUF_OFFSET_BYTES + position) | integrity)
    }

    /// The inverse of [`pack`](Self::pack).
    ///
    /// # Errors
    /// [`OffsetError::Position`] for a number that `pack` does not make.
    pub const fn unpack(packed: u64) -> Result<Self, OffsetError> {
        let position = (packed & !INTEGRITY_FLAG).wrapping_sub(IO_BUF_OFFSET_BYTES);
        if position >= IO_BUF_TOTAL_BYTES {
            return Err(OffsetError::Position(packed));
        }
        Ok(Self {
            queue_id: (position >> QUEUE_ID_SHIFT & QUEUE_ID_BITS_MASK) as u16,
            tag: (position >> TAG_SHIFT & TAG_BITS_MASK) as u16,
            offset_bytes: (position >> BUF_SHIFT & BUF_BITS_MASK) as u32,
            integrity: packed & INTEGRITY_FLAG != 0,
        })
    }
}

// The base is added, not merged in: the sum must stay below the integrity flag.
const _: () = assert!(IO_BUF_OFFSET_BYTES + IO_BUF_TOTAL_BYTES < INTEGRITY_FLAG);
