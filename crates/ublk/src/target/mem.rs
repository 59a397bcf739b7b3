//! `mem`: a device in memory. A page is taken at its first write and given back by a discard.
//!
//! In get-data mode the driver copies straight between a request's pages and the store; this thread never touches the data. The
//! zero-copy form keeps the store in a memfd and lets the kernel move whole pages, which is faster from about 64 KiB per request on and
//! slower below (docs/performance.md), so it is a choice and not the default.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use ublk_executor::Mapping;

use super::file::FileTarget;
use super::{BufferAddress, Geometry, Io, Op, Progress, QueueTarget, Request, Target};
use crate::{BufferMode, CharDevice, Error};

/// A device of `size_bytes` in memory.
///
/// # Errors
/// [`Error::NoMemory`]: no address space of that size.
pub fn mem(size_bytes: u64) -> Result<Arc<dyn Target>, Error> {
    let store = usize::try_from(size_bytes).ok().and_then(|length| Mapping::new(length).ok());
    match store {
        Some(store) => Ok(Arc::new(Mem { store: Arc::new(store), size_bytes })),
        None => Err(out_of_memory(size_bytes)),
    }
}

/// The same, with zero copy where the kernel has it (6.16).
///
/// # Errors
/// [`Error::NoMemory`].
pub fn mem_zero_copy(size_bytes: u64) -> Result<Arc<dyn Target>, Error> {
    let file = memory_file(size_bytes).map_err(|_| out_of_memory(size_bytes))?;
    Ok(Arc::new(FileTarget::over_memory(file, size_bytes)))
}

/// A memfd, opened again through /proc so that it goes through the file system's own `open`.
fn memory_file(size_bytes: u64) -> std::io::Result<File> {
    let memory = memfd_create("ublk-mem", MemfdFlags::CLOEXEC)?;
    ftruncate(&memory, size_bytes)?;
    File::options().read(true).write(true).open(format!("/proc/self/fd/{}", memory.as_fd().as_raw_fd()))
}

fn out_of_memory(size_bytes: u64) -> Error {
    Error::NoMemory { what: format!("a memory device of {size_bytes} bytes"), id: None }
}

struct Mem {
    store: Arc<Mapping>,
    size_bytes: u64,
}

impl Target for Mem {
    fn kind(&self) -> &'static str {
        "mem"
    }

    fn geometry(&self) -> Geometry {
        Geometry::in_memory(self.size_bytes)
    }

    fn resize(&self, size_bytes: u64) -> Result<(), Error> {
        if size_bytes <= self.size_bytes {
            return Ok(());
        }
        let what = format!("{size_bytes} bytes in a mem device that was made with {}", self.size_bytes);
        Err(Error::NoMemory { what, id: None })
    }

    fn buffers(&self) -> Vec<BufferMode> {
        vec![BufferMode::GetData]
    }

    fn answers_at_once(&self) -> bool {
        true
    }

    fn queue(&self, device: &Arc<CharDevice>, _tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        let has_places = matches!(device.buffers(), BufferMode::GetData | BufferMode::UserCopy);
        Ok(Box::new(MemQueue { store: Arc::clone(&self.store), has_places }))
    }
}

struct MemQueue {
    store: Arc<Mapping>,
    /// Data moves between requests and the store without our doing.
    has_places: bool,
}

impl QueueTarget for MemQueue {
    #[inline]
    fn start(&mut self, _tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let (offset, length) = (request.offset_bytes() as usize, request.len_bytes as usize);
        match request.op {
            Op::Read if self.has_places => Progress::DoneAt(length as i32, self.place(request)),
            Op::Write if self.has_places => Progress::DoneAt(length as i32, BufferAddress::NONE),
            Op::Read => {
                io.copy_from_store(&self.store, offset, length);
                Progress::Done(length as i32)
            }
            Op::Write => {
                io.copy_to_store(&self.store, offset, length);
                Progress::Done(length as i32)
            }
            Op::Discard => {
                self.store.discard(offset, length);
                Progress::Done(0)
            }
            Op::WriteZeroes => {
                self.store.zero(offset, length);
                Progress::Done(0)
            }
            Op::Flush => Progress::Done(0),
            _ => Progress::Done(-libc::EOPNOTSUPP),
        }
    }

    #[inline]
    #[allow(unsafe_code)]
    fn place(&mut self, request: &Request) -> BufferAddress {
        if !self.has_places {
            return BufferAddress::NONE;
        }
        let address = self.store.address(request.offset_bytes() as usize, request.len_bytes as usize);
        // SAFETY: `address` checked the range. The store outlives the queue: `NativeQueue` drops its target, which holds the store, after it.
        unsafe { BufferAddress::new(address) }
    }
}
