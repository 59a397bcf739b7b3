//! `file`: an image or a block device, through the queue's own ring.
//!
//! FLUSH is fdatasync, FUA is RWF_DSYNC, DISCARD punches a hole, WRITE_ZEROES zeroes a range. Short reads and writes are resumed, and
//! the file system's errors (ENOSPC, EIO) reach the block layer as they are.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, StatxFlags, fallocate, flock, ioctl_blksszget, statx};
use ublk_executor::Mapping;
use ublk_uapi::IoFlags;

use super::{BackingIo, BufferAddress, Geometry, Io, Op, Progress, QueueTarget, Request, Target};
use crate::error::words;
use crate::{BufferMode, CharDevice, Error};

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// Zero bytes written at a time where the file system cannot zero a range by itself.
const ZEROES_BYTES: u32 = 1 << 20;

/// Linux 6.1's STATX_DIOALIGN, which the libraries name differently.
const STATX_DIOALIGN: u32 = 0x2000;

/// How to open a file target.
#[derive(Debug, Clone, Default)]
pub struct FileOptions {
    /// Bytes to serve; None takes all that the file has.
    pub size_bytes: Option<u64>,
    /// Past the page cache (O_DIRECT).
    pub direct: bool,
    /// Make a missing file and grow a short one to `size_bytes`.
    pub create: bool,
    /// Open read-only.
    pub read_only: bool,
    /// Logical block size of the device, at least the file's own; None takes the file's.
    pub block_bytes: Option<u32>,
}

/// Opens `path` as a target and locks it (flock), so that no second server takes it.
///
/// # Errors
/// [`Error::File`] naming the path and the rule; [`Error::Busy`] when it is locked.
pub fn open(path: &Path, options: &FileOptions) -> Result<Arc<dyn Target>, Error> {
    let is_new = options.create && !options.read_only && !path.exists();
    if is_new && options.size_bytes.is_none() {
        return Err(rule(path, "does not exist, and to create it a size is needed"));
    }
    let file = open_file(path, options, is_new)?;
    lock(&file, path, options.read_only)?;
    let target = over_file(file, path, options);
    if is_new && target.is_err() {
        // Made here and locked, so nobody else's; without its size it is of no use.
        let _ = std::fs::remove_file(path);
    }
    target
}

fn over_file(file: File, path: &Path, options: &FileOptions) -> Result<Arc<dyn Target>, Error> {
    let is_block_device = metadata(&file, path)?.file_type().is_block_device();
    let logical_block_bytes = logical_block_bytes(&file, path, is_block_device, options)?;
    let size_bytes = served_size(&file, path, options, is_block_device, logical_block_bytes)?;
    let can_punch = !options.read_only && can_punch_holes(&file, size_bytes, is_block_device);
    Ok(Arc::new(FileTarget {
        file,
        kind: "file",
        geometry: Geometry {
            size_bytes,
            logical_block_bytes,
            physical_block_bytes: logical_block_bytes.max(4096),
            volatile_cache: true,
            fua: true,
            discard: can_punch,
            write_zeroes: true,
            rotational: false,
            read_only: options.read_only,
        },
    }))
}

pub(super) struct FileTarget {
    file: File,
    kind: &'static str,
    geometry: Geometry,
}

impl FileTarget {
    /// A target over a file in memory: nothing to flush.
    pub(super) fn over_memory(file: File, size_bytes: u64) -> FileTarget {
        FileTarget { file, kind: "mem", geometry: Geometry::in_memory(size_bytes) }
    }
}

impl Target for FileTarget {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn buffers(&self) -> Vec<BufferMode> {
        vec![BufferMode::AutoZeroCopy]
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.file.as_fd()]
    }

    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        let zeroes = Mapping::new(ZEROES_BYTES as usize)
            .map_err(|_| Error::NoMemory { what: "a buffer of zeroes".into(), id: Some(device.id()) })?;
        let idle = Transfer { step: Step::Data, done: 0 };
        Ok(Box::new(FileQueue { transfers: vec![idle; tags as usize], zeroes }))
    }
}

/// Where a request stands. One operation is open at a time.
#[derive(Debug, Clone, Copy)]
struct Transfer {
    step: Step,
    /// Bytes done so far.
    done: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Data,
    Sync,
    Punch,
    ZeroRange,
    WriteZeroes,
}

struct FileQueue {
    transfers: Vec<Transfer>,
    zeroes: Mapping,
}

impl QueueTarget for FileQueue {
    #[inline]
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let step = match request.op {
            Op::Read | Op::Write => Step::Data,
            Op::Flush => Step::Sync,
            Op::Discard => Step::Punch,
            Op::WriteZeroes if request.flags.contains(IoFlags::NOUNMAP) => Step::ZeroRange,
            Op::WriteZeroes => Step::Punch,
            Op::Other(_) => return Progress::Done(-libc::EOPNOTSUPP),
        };
        self.transfers[usize::from(tag)] = Transfer { step, done: 0 };
        self.next(tag, request, io)
    }

    #[inline]
    fn resume(&mut self, tag: u16, request: &Request, _part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        let transfer = &mut self.transfers[usize::from(tag)];
        match (transfer.step, result) {
            (_, errno) if errno == -libc::EAGAIN || errno == -libc::EINTR => {}
            (Step::Data | Step::WriteZeroes, 0) => return Progress::Done(-libc::EIO), // the file became shorter
            (Step::Data | Step::WriteZeroes, 1..) => {
                transfer.done += result as u32;
                if transfer.done == request.len_bytes {
                    return self.durable(tag, request, io);
                }
            }
            (Step::Punch, errno) if is_missing(errno) && request.op == Op::WriteZeroes => {
                transfer.step = Step::ZeroRange;
            }
            (Step::ZeroRange, errno) if is_missing(errno) => transfer.step = Step::WriteZeroes,
            (Step::Punch | Step::ZeroRange, 0) => return self.durable(tag, request, io),
            _ => return Progress::Done(result),
        }
        self.next(tag, request, io)
    }
}

impl FileQueue {
    /// Starts the operation that the transfer's step asks for.
    #[inline]
    fn next(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let Transfer { step, done } = self.transfers[usize::from(tag)];
        let (offset, left) = (request.offset_bytes() + u64::from(done), request.len_bytes - done);
        let whole = u64::from(request.len_bytes);
        let operation = match step {
            Step::Data if request.op == Op::Read => BackingIo::Read { offset, data_offset: done, length: left },
            Step::Data => BackingIo::Write { offset, data_offset: done, length: left, is_durable: request.is_fua() },
            Step::Sync => BackingIo::Sync,
            Step::Punch => BackingIo::Allocate { mode: PUNCH_HOLE, offset, length: whole },
            Step::ZeroRange => BackingIo::Allocate { mode: ZERO_RANGE, offset, length: whole },
            Step::WriteZeroes => {
                BackingIo::WriteZeroes { zeroes: self.zeroes(), offset, length: left.min(ZEROES_BYTES) }
            }
        };
        io.start(0, 0, operation);
        Progress::Pending
    }

    /// Ends a transfer whose data is in place: zeroing with FUA still wants a sync, a FUA write was durable by itself.
    #[inline]
    fn durable(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let is_zeroing = request.op == Op::WriteZeroes;
        if is_zeroing && request.is_fua() {
            self.transfers[usize::from(tag)].step = Step::Sync;
            return self.next(tag, request, io);
        }
        let has_data = matches!(request.op, Op::Read | Op::Write);
        Progress::Done(if has_data { request.len_bytes as i32 } else { 0 })
    }

    #[allow(unsafe_code)]
    fn zeroes(&self) -> BufferAddress {
        // SAFETY: nobody ever writes to this mapping, and it lives in the target, which outlives the queue.
        unsafe { BufferAddress::new(self.zeroes.address(0, ZEROES_BYTES as usize)) }
    }
}

fn is_missing(errno: i32) -> bool {
    errno == -libc::EOPNOTSUPP || errno == -libc::ENOSYS
}

fn open_file(path: &Path, options: &FileOptions, is_new: bool) -> Result<File, Error> {
    let mut open = File::options();
    open.read(true).write(!options.read_only).create_new(is_new);
    open.mode(0o600);
    if options.direct {
        open.custom_flags(libc::O_DIRECT);
    }
    let file = open.open(path).map_err(|source| match source.raw_os_error() {
        Some(libc::EINVAL) if options.direct => rule(path, "its file system has no direct I/O; leave `direct` out"),
        Some(libc::EISDIR) => rule(path, "is a directory; a file or a block device is needed"),
        _ => failed(path, "open", &source),
    })?;
    let kind = metadata(&file, path)?.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(file);
    }
    Err(rule(path, "is neither a regular file nor a block device"))
}

fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), Error> {
    let operation =
        if read_only { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    match flock(file, operation) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Busy { what: path.display().to_string(), id: None }),
        // A file system without locks (some network ones) is served without.
        _ => Ok(()),
    }
}

fn logical_block_bytes(file: &File, path: &Path, is_block_device: bool, options: &FileOptions) -> Result<u32, Error> {
    let least = least_block_bytes(file, path, is_block_device, options.direct)?;
    match options.block_bytes {
        Some(wanted) if wanted < least => {
            Err(rule(path, &format!("has blocks of {least} bytes, more than the block size {wanted} asked for")))
        }
        wanted => Ok(wanted.unwrap_or(least)),
    }
}

fn least_block_bytes(file: &File, path: &Path, is_block_device: bool, direct: bool) -> Result<u32, Error> {
    if is_block_device {
        return ioctl_blksszget(file).map_err(|errno| failed(path, "ioctl(BLKSSZGET)", &errno.into()));
    }
    if !direct {
        return Ok(512);
    }
    let alignment = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::from_bits_retain(STATX_DIOALIGN))
        .map(|status| status.stx_dio_offset_align)
        .unwrap_or(0);
    match alignment {
        ..=512 => Ok(512),
        513..=4096 if alignment.is_power_of_two() => Ok(alignment),
        _ => Err(rule(path, &format!("direct I/O there needs {alignment}-byte blocks, more than 4096"))),
    }
}

fn served_size(
    file: &File,
    path: &Path,
    options: &FileOptions,
    is_block_device: bool,
    block_bytes: u32,
) -> Result<u64, Error> {
    let has = (&*file).seek(SeekFrom::End(0)).map_err(|source| failed(path, "lseek", &source))?;
    let wanted = options.size_bytes.unwrap_or(has);
    if wanted > has {
        if !options.create || is_block_device {
            let problem = format!("has {has} bytes, fewer than the {wanted} asked for");
            return Err(rule(path, &problem));
        }
        file.set_len(wanted).map_err(|source| failed(path, "ftruncate", &source))?;
    }
    match wanted - wanted % u64::from(block_bytes) {
        0 => Err(rule(
            path,
            &format!(
                "has {wanted} bytes, less than one block of {block_bytes}; give a size, and let it be grown to it"
            ),
        )),
        size_bytes => Ok(size_bytes),
    }
}

/// Tries on nothing: beyond the end of a file, or with no length on a block device's own queue limits.
fn can_punch_holes(file: &File, size_bytes: u64, is_block_device: bool) -> bool {
    if is_block_device {
        return true; // the kernel zeroes by hand where the disk cannot unmap
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, size_bytes.next_multiple_of(4096), 4096).is_ok()
}

fn metadata(file: &File, path: &Path) -> Result<std::fs::Metadata, Error> {
    file.metadata().map_err(|source| failed(path, "fstat", &source))
}

fn failed(path: &Path, syscall: &'static str, source: &std::io::Error) -> Error {
    Error::File {
        path: path.display().to_string(),
        problem: words(source),
        syscall: Some(syscall),
        errno: source.raw_os_error(),
    }
}

fn rule(path: &Path, problem: &str) -> Error {
    Error::File { path: PathBuf::from(path).display().to_string(), problem: problem.into(), syscall: None, errno: None }
}
