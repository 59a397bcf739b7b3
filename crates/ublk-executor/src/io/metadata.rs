//! What is known of a file without opening it.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use io_uring::opcode;
use rustix::fs::{FileType, Statx, StatxFlags};

use super::open::{fd_of, path_of};
use super::operation::start;
use crate::reactor::OpKind;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    SymbolicLink,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharacterDevice,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// The file system does not say.
    Unknown,
}

impl From<FileType> for FileKind {
    fn from(kind: FileType) -> FileKind {
        match kind {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::SymbolicLink,
            FileType::BlockDevice => FileKind::BlockDevice,
            FileType::CharacterDevice => FileKind::CharacterDevice,
            FileType::Fifo => FileKind::Pipe,
            FileType::Socket => FileKind::Socket,
            _ => FileKind::Unknown,
        }
    }
}

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Bytes up to its end; 0 for a device.
    pub size: u64,
    /// Bytes that it takes on the disk: fewer than `size` where it has holes.
    pub allocated: u64,
    /// Permission bits, as of `chmod`.
    pub mode: u32,
    /// When its content was changed last.
    pub modified: SystemTime,
    /// Number of its file system; together with `inode` its identity.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// What offsets and lengths of O_DIRECT are multiples of, where the kernel says so (Linux 6.1) and the file can.
    pub(super) direct_alignment: Option<u32>,
}

/// STATX answers in these; times 512.
const STAT_BLOCK_BYTES: u64 = 512;

/// Of `path`, seen from `directory` or else from the working directory.
pub(super) async fn metadata_of(directory: Option<&Rc<OwnedFd>>, path: &Path, flags: i32) -> io::Result<Metadata> {
    let path = path_of(path)?;
    // SAFETY: numbers alone, for which zeroes are values.
    let mut answer: Box<Statx> = Box::new(unsafe { mem::zeroed() });
    let entry = opcode::Statx::new(fd_of(directory), path.as_ptr(), (&raw mut *answer).cast())
        .flags(flags)
        .mask((StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN).bits())
        .build();
    // SAFETY: the entry points to the path and to the answer, whose bytes do not move with them; the operation owns them and the directory.
    let operation = unsafe { start(entry, OpKind::Bounded, (path, answer, directory.cloned())) };
    let (result, (_, answer, _)) = operation.await;
    result.map(|_| Metadata::from(&*answer))
}

impl From<&Statx> for Metadata {
    fn from(answer: &Statx) -> Metadata {
        let mode = u32::from(answer.stx_mode);
        Metadata {
            kind: FileType::from_raw_mode(mode).into(),
            size: answer.stx_size,
            allocated: answer.stx_blocks * STAT_BLOCK_BYTES,
            mode: mode & 0o7777,
            modified: time_of(answer.stx_mtime.tv_sec, answer.stx_mtime.tv_nsec),
            device: rustix::fs::makedev(answer.stx_dev_major, answer.stx_dev_minor),
            inode: answer.stx_ino,
            direct_alignment: Some(answer.stx_dio_offset_align).filter(|&bytes| bytes > 0),
        }
    }
}

/// Seconds may be before 1970; nanoseconds always count forward.
fn time_of(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let second = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    second.map_or(UNIX_EPOCH, |second| second + Duration::from_nanos(nanoseconds.into()))
}
