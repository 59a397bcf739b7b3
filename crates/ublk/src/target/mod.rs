//! Targets: native code that answers requests.
//!
//! A [`Target`] is one per device and shared by its queues; it makes one [`QueueTarget`] per queue, on the queue's thread. Requests either
//! complete at once or by operations on the queue's own ring: a target never blocks, allocates or locks per request.

mod backing;
mod fault;
mod file;
mod integrity;
mod mem;
mod mirror;
mod nbd;
mod null;
mod stripe;
mod transfer;
mod zoned;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use crate::queue::io::Io;
use crate::queue::serving::Drain;
pub use crate::queue::{BackingIo, BufferAddress, Op, Request, SocketIo};
use crate::{BufferMode, CharDevice, Error};

pub use backing::FileOptions;
pub use fault::{DieAt, Faults, fault};
pub use file::open as file;
pub use integrity::{Integrity, IntegrityFile, with_integrity};
pub use mem::{mem, mem_zero_copy};
pub use mirror::open as mirror;
pub use nbd::{NbdAddress, NbdOptions, NbdTls, nbd};
pub use null::null;
pub use stripe::{StripeOptions, open as stripe};
pub use zoned::{ZonedOptions, zoned};

/// What a target can do and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes, a multiple of the logical block.
    pub size_bytes: u64,
    /// Smallest I/O that the target takes.
    pub logical_block_bytes: u32,
    /// I/O that suits it.
    pub physical_block_bytes: u32,
    /// FLUSH means something.
    pub volatile_cache: bool,
    /// A write can be made durable by itself.
    pub fua: bool,
    /// DISCARD gives space back.
    pub discard: bool,
    /// WRITE_ZEROES is cheaper than writing.
    pub write_zeroes: bool,
    /// Seeks cost.
    pub rotational: bool,
    /// Writes would be refused.
    pub read_only: bool,
    /// Alignment of memory that its files take, a power of two; it matters in the zero-copy modes, where they get the pages of requests.
    pub memory_align_bytes: u32,
}

impl Geometry {
    /// Of a target that lives in memory: nothing to flush, any block, clearing is cheap.
    fn in_memory(size_bytes: u64) -> Geometry {
        Geometry {
            size_bytes,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            volatile_cache: false,
            fua: false,
            discard: true,
            write_zeroes: true,
            rotational: false,
            read_only: false,
            memory_align_bytes: 1,
        }
    }

    /// Of a target that keeps its bytes in files or block devices.
    fn of_files(size_bytes: u64, block_bytes: u32, can_punch: bool, read_only: bool) -> Geometry {
        Geometry {
            size_bytes,
            logical_block_bytes: block_bytes,
            physical_block_bytes: block_bytes.max(4096),
            volatile_cache: true,
            fua: true,
            discard: can_punch,
            write_zeroes: true,
            rotational: false,
            read_only,
            memory_align_bytes: 1,
        }
    }

    /// The same over files of which one wants this alignment, and all must take the memory of a request.
    fn aligned(self, files: impl Iterator<Item = u32>) -> Geometry {
        Geometry { memory_align_bytes: files.max().unwrap_or(1), ..self }
    }
}

/// The zones of a target that has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZonedGeometry {
    /// Bytes from one zone to the next, a power of two; the device has whole zones.
    pub zone_bytes: u64,
    /// Bytes that a zone takes.
    pub zone_capacity_bytes: u64,
    /// Most open zones; 0 is no limit.
    pub max_open_zones: u32,
    /// Most active zones; 0 is no limit.
    pub max_active_zones: u32,
}

/// [`QueueTarget::resume`]'s `part` for a request that was woken: no operation has this number.
pub const WOKEN: u16 = u16::MAX;

/// How a request goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Operations are under way; `resume` will be called for each.
    Pending,
    /// It waits for something of another request: its end wakes this one ([`Io::wake`]), or it is gone on with from the `start` or `resume` of
    /// that one ([`Io::at`]).
    Waiting,
    /// Answer: bytes done, or -errno. Data of a read is in the tag's buffer.
    Done(i32),
    /// Get-data and user-copy mode: answer, with the place where a read's data is.
    DoneAt(i32, BufferAddress),
    /// Answer of a zone append: bytes, and the first sector that they went to.
    Appended(i32, u64),
}

/// Hears of what happened to a target, as a sentence; called on a queue thread or one of the target's own: it must not block.
pub type Report = Box<dyn Fn(String) + Send + Sync>;

/// One leg of a target that keeps its data more than once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegStatus {
    /// Path as given.
    pub path: String,
    /// What it is good for.
    pub state: LegState,
}

/// What a leg is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegState {
    /// It has every acknowledged write, and is read.
    InSync,
    /// It gets new writes, and is being brought up to date.
    Resyncing {
        /// Bytes of the device that are done.
        done_bytes: u64,
    },
    /// It is out of use.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Answers a device's requests.
pub trait Target: Send + Sync {
    /// Word in `info`: null, mem, file, stripe, mirror, zoned, nbd, fault.
    fn kind(&self) -> &'static str;
    /// Size and abilities.
    fn geometry(&self) -> Geometry;
    /// Buffer modes by preference; copy need not be named.
    fn buffers(&self) -> Vec<BufferMode>;
    /// False: it needs its data in the server's memory, where the zero-copy modes never bring it.
    fn serves_zero_copy(&self) -> bool {
        self.buffers().iter().any(|mode| mode.is_zero_copy())
    }
    /// True: each request is answered when it comes, and none waits for an operation.
    fn answers_at_once(&self) -> bool {
        false
    }
    /// Its zones, if it is a zoned disk: such a device moves its data by user copy.
    fn zoned(&self) -> Option<ZonedGeometry> {
        None
    }
    /// Its integrity data, if it keeps any: such a device moves its data by user copy.
    fn integrity(&self) -> Option<Integrity> {
        None
    }
    /// Files for the ring's table, in the order of their numbers in [`Io::start`].
    fn files(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
    /// Makes itself ready to serve a device of `size_bytes`, larger or smaller than before. The default refuses to grow, and zones to shrink.
    ///
    /// # Errors
    /// [`Error::NoMemory`] or [`Error::File`] when there is not so much; [`Error::BadOption`] when the target's size is fixed.
    fn resize(&self, size_bytes: u64) -> Result<(), Error> {
        let (kind, made_with) = (self.kind(), self.geometry().size_bytes);
        let can_shrink = self.zoned().is_none();
        if size_bytes == made_with || size_bytes < made_with && can_shrink {
            return Ok(());
        }
        let rule = if can_shrink { "does not grow beyond" } else { "keeps" };
        let rule =
            format!("a {kind} device {rule} the {made_with} bytes that it was made with: {size_bytes} were asked for");
        Err(Error::BadOption { rule })
    }
    /// The parts of a target that keeps its data more than once; none for the others.
    fn legs(&self) -> Vec<LegStatus> {
        Vec::new()
    }
    /// Where to tell what happens while nobody calls.
    fn report_to(&self, report: Report) {
        let _ = report;
    }
    /// Makes the part that serves the requests of one thread, on tags numbered from 0 to `tags`; called on that thread.
    ///
    /// # Errors
    /// [`Error::NoMemory`], or whatever the target needs and does not get.
    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error>;
}

/// Answers one thread's requests, on it. The loop over them is made by itself for every such type.
pub trait QueueTarget: Drain {
    /// False: it never looks at the data of requests. In the zero-copy modes their pages are not made a fixed buffer then.
    fn uses_data(&self) -> bool {
        true
    }

    /// A new request. A write's data is at its place, or in the tag's buffer, already.
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress;

    /// One operation of the request ended: bytes or -errno. With `part` [`WOKEN`]: another request woke it.
    fn resume(&mut self, tag: u16, request: &Request, part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        let _ = (tag, request, part, io);
        Progress::Done(result)
    }

    /// Where in the target's own memory the data of this read or write is; none if it is not there. The driver copies to and from it then,
    /// in get-data and user-copy mode.
    fn place(&mut self, request: &Request) -> BufferAddress {
        let _ = request;
        BufferAddress::NONE
    }
}
