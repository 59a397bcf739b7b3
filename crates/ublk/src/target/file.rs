//! `file`: an image or a block device, through the queue's own ring.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backing::{Backing, FileOptions, ensure_size};
use super::transfer::{Span, Transfer, Unreported, Zeroes};
use super::{Geometry, Io, Progress, QueueTarget, Request, Target};
use crate::{BufferMode, CharDevice, Error};

/// Opens `path` as a target and locks it (flock), so that no second server takes it.
///
/// # Errors
/// [`Error::File`] naming the path and the rule; [`Error::Busy`] when it is locked.
pub fn open(path: &Path, options: &FileOptions) -> Result<Arc<dyn Target>, Error> {
    let backing = Backing::open(path, options)?;
    let Backing { size_bytes, block_bytes, memory_align_bytes, can_punch, .. } = backing;
    let may_grow = options.create && !options.read_only && !backing.is_block_device;
    let geometry = Geometry::of_files(size_bytes, block_bytes, can_punch, options.read_only);
    let geometry = geometry.aligned([memory_align_bytes].into_iter());
    let unreported = Arc::default();
    Ok(Arc::new(FileTarget { file: backing.file, path: backing.path, may_grow, kind: "file", geometry, unreported }))
}

pub(super) struct FileTarget {
    file: File,
    path: PathBuf,
    may_grow: bool,
    kind: &'static str,
    geometry: Geometry,
    unreported: Arc<Unreported>,
}

impl FileTarget {
    /// A target over a file in memory: nothing to flush.
    pub(super) fn over_memory(file: File, size_bytes: u64) -> FileTarget {
        let geometry = Geometry::in_memory(size_bytes);
        FileTarget { file, path: "memory".into(), may_grow: true, kind: "mem", geometry, unreported: Arc::default() }
    }
}

impl Target for FileTarget {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// As at the start: only a file that may be made may grow. It never becomes shorter.
    fn resize(&self, size_bytes: u64) -> Result<(), Error> {
        ensure_size(&self.file, &self.path, size_bytes, self.may_grow)
    }

    fn buffers(&self) -> Vec<BufferMode> {
        vec![BufferMode::AutoZeroCopy]
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.file.as_fd()]
    }

    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        let transfers = vec![Transfer::IDLE; tags as usize];
        Ok(Box::new(FileQueue { transfers, zeroes: Zeroes::new(device)?, unreported: Arc::clone(&self.unreported) }))
    }
}

struct FileQueue {
    transfers: Vec<Transfer>,
    zeroes: Zeroes,
    unreported: Arc<Unreported>,
}

impl FileQueue {
    #[inline(never)] // it would make the usual case longer
    fn go_on(&mut self, tag: u16, request: &Request, part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        let transfer = &mut self.transfers[usize::from(tag)];
        let ended = transfer.resume(request, Span::whole(request, 0), part, result, &self.zeroes, io);
        ended.map_or(Progress::Pending, |result| Progress::Done(self.unreported.account(request, result)))
    }
}

impl QueueTarget for FileQueue {
    #[inline(always)] // in `drain`
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let transfer = &mut self.transfers[usize::from(tag)];
        if transfer.start(request, Span::whole(request, 0), 0, &self.zeroes, io) {
            Progress::Pending
        } else {
            Progress::Done(-libc::EOPNOTSUPP)
        }
    }

    #[inline]
    fn resume(&mut self, tag: u16, request: &Request, part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        if self.transfers[usize::from(tag)].is_whole(request, result) {
            return Progress::Done(result);
        }
        self.go_on(tag, request, part, result, io)
    }
}
