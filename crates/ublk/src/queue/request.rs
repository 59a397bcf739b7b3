//! A request as the block layer made it, copied out of the shared descriptor.

use ublk_uapi::{IoFlags, IoOp, SECTOR_BYTES, ShmemPosition};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Fill the buffer.
    Read,
    /// Store the buffer.
    Write,
    /// Make every completed write durable.
    Flush,
    /// The range's content is no longer needed.
    Discard,
    /// The range shall read as zeroes.
    WriteZeroes,
    /// Open the zone that begins at the first sector.
    ZoneOpen,
    /// Close it.
    ZoneClose,
    /// Make it full.
    ZoneFinish,
    /// Store the buffer at its write pointer.
    ZoneAppend,
    /// Make it empty.
    ZoneReset,
    /// Make every zone empty.
    ZoneResetAll,
    /// Fill the buffer with [`ublk_uapi::Zone`] records, from the zone at the first sector on.
    ReportZones,
    /// Anything else; answer EOPNOTSUPP.
    Other(u8),
}

impl Op {
    /// Operations that are counted, in the order of their statistics.
    pub const COUNTED: [Op; 5] = [Op::Read, Op::Write, Op::Flush, Op::Discard, Op::WriteZeroes];

    /// Name in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Op::Read => "read",
            Op::Write => "write",
            Op::Flush => "flush",
            Op::Discard => "discard",
            Op::WriteZeroes => "write_zeroes",
            Op::ZoneOpen => "zone_open",
            Op::ZoneClose => "zone_close",
            Op::ZoneFinish => "zone_finish",
            Op::ZoneAppend => "zone_append",
            Op::ZoneReset => "zone_reset",
            Op::ZoneResetAll => "zone_reset_all",
            Op::ReportZones => "report_zones",
            Op::Other(_) => "other",
        }
    }

    /// Number in `ublksrv_io_desc.op_flags`.
    pub fn code(self) -> u8 {
        match self {
            Op::Read => IoOp::Read.code(),
            Op::Write => IoOp::Write.code(),
            Op::Flush => IoOp::Flush.code(),
            Op::Discard => IoOp::Discard.code(),
            Op::WriteZeroes => IoOp::WriteZeroes.code(),
            Op::ZoneOpen => IoOp::ZoneOpen.code(),
            Op::ZoneClose => IoOp::ZoneClose.code(),
            Op::ZoneFinish => IoOp::ZoneFinish.code(),
            Op::ZoneAppend => IoOp::ZoneAppend.code(),
            Op::ZoneReset => IoOp::ZoneReset.code(),
            Op::ZoneResetAll => IoOp::ZoneResetAll.code(),
            Op::ReportZones => IoOp::ReportZones.code(),
            Op::Other(code) => code,
        }
    }

    #[inline]
    pub(super) fn from_code(code: u8) -> Op {
        const READ: u8 = IoOp::Read.code();
        const WRITE: u8 = IoOp::Write.code();
        match code {
            READ => Op::Read,
            WRITE => Op::Write,
            _ => Op::from_rare_code(code),
        }
    }

    #[inline(never)]
    fn from_rare_code(code: u8) -> Op {
        match IoOp::try_from(code) {
            Ok(IoOp::Flush) => Op::Flush,
            Ok(IoOp::Discard) => Op::Discard,
            Ok(IoOp::WriteZeroes) => Op::WriteZeroes,
            Ok(IoOp::ZoneOpen) => Op::ZoneOpen,
            Ok(IoOp::ZoneClose) => Op::ZoneClose,
            Ok(IoOp::ZoneFinish) => Op::ZoneFinish,
            Ok(IoOp::ZoneAppend) => Op::ZoneAppend,
            Ok(IoOp::ZoneReset) => Op::ZoneReset,
            Ok(IoOp::ZoneResetAll) => Op::ZoneResetAll,
            Ok(IoOp::ReportZones) => Op::ReportZones,
            Ok(IoOp::Read | IoOp::Write | IoOp::WriteSame) | Err(_) => Op::Other(code),
        }
    }
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// What is asked.
    pub op: Op,
    /// FUA, NOUNMAP and the hints.
    pub flags: IoFlags,
    /// First sector.
    pub start_sector: u64,
    /// Length in bytes; 0 for FLUSH. Of REPORT_ZONES, the room for the report.
    pub len_bytes: u32,
    /// Where its data lies in shared memory.
    pub(crate) shared_at: u64,
}

impl Default for Request {
    fn default() -> Request {
        Request { op: Op::Other(0), flags: IoFlags::empty(), start_sector: 0, len_bytes: 0, shared_at: 0 }
    }
}

impl Request {
    /// First byte on the device.
    #[inline]
    pub fn offset_bytes(&self) -> u64 {
        self.start_sector * SECTOR_BYTES
    }

    /// Length in sectors.
    #[inline]
    pub fn sectors(&self) -> u64 {
        u64::from(self.len_bytes) / SECTOR_BYTES
    }

    /// Bytes move between its pages and the server.
    #[inline]
    pub fn has_data(&self) -> bool {
        self.brings_data() || self.takes_data()
    }

    /// Its pages hold what is to be stored.
    #[inline]
    pub fn brings_data(&self) -> bool {
        matches!(self.op, Op::Write | Op::ZoneAppend)
    }

    /// Its pages are to be filled.
    #[inline]
    pub fn takes_data(&self) -> bool {
        matches!(self.op, Op::Read | Op::ReportZones)
    }

    /// Where its data lies in the memory that the device's users share, if it lies there.
    #[inline]
    pub(super) fn in_shared_memory(&self) -> Option<ShmemPosition> {
        self.is_shared().then(|| ShmemPosition::from_addr(self.shared_at))
    }

    /// Its data lies in the memory that the device's users share, and not in the tag's buffer.
    #[inline]
    pub fn is_shared(&self) -> bool {
        self.flags.contains(IoFlags::SHMEM_ZC)
    }

    /// What a request that has succeeded is answered with: the bytes of data, 0 for the operations without.
    #[inline]
    pub fn done_bytes(&self) -> i32 {
        if self.has_data() { self.len_bytes as i32 } else { 0 }
    }

    /// This write is durable when it completes.
    #[inline]
    pub fn is_fua(&self) -> bool {
        self.flags.contains(IoFlags::FUA)
    }
}
