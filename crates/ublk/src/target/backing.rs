//! What a target keeps its bytes in: an image file or a block device, opened, checked and locked.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, FallocateFlags, FlockOperation, StatxFlags, fallocate, flock, ioctl_blksszget, major, minor, statx,
};

use crate::Error;
use crate::error::words;

/// Linux 6.1's STATX_DIOALIGN, which the libraries name differently.
const STATX_DIOALIGN: u32 = 0x2000;

/// How long udev may take to look at a block device, and how often to ask whether it still does.
const UDEV_LIMIT: Duration = Duration::from_secs(5);
const UDEV_POLL: Duration = Duration::from_millis(10);

/// How to open a file or a block device.
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

/// An open file or block device, locked (flock) so that no second server takes it.
#[derive(Debug)]
pub(super) struct Backing {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Whole blocks of what was asked for, or of what the file has.
    pub(super) size_bytes: u64,
    /// Smallest I/O that it takes.
    pub(super) block_bytes: u32,
    /// Alignment of memory that it takes.
    pub(super) memory_align_bytes: u32,
    /// A punched hole gives space back.
    pub(super) can_punch: bool,
    pub(super) is_block_device: bool,
    /// Made by this opening.
    is_new: bool,
}

impl Backing {
    /// Opens, checks and locks `path`. A file that was made here goes again when it cannot be used.
    ///
    /// # Errors
    /// [`Error::File`] naming the path and the rule; [`Error::Busy`] when it is locked.
    pub(super) fn open(path: &Path, options: &FileOptions) -> Result<Backing, Error> {
        let is_new = options.create && !options.read_only && !path.exists();
        if is_new && options.size_bytes.is_none() {
            return Err(rule(path, "does not exist, and to create it a size is needed"));
        }
        let file = open_file(path, options, is_new)?;
        lock(&file, path, options.read_only)?;
        let backing = Backing::of(file, path, options, is_new);
        if is_new && backing.is_err() {
            // Made here and locked, so nobody else's; without its size it is of no use.
            let _ = std::fs::remove_file(path);
        }
        backing
    }

    /// Takes a file away again that this opening has made.
    pub(super) fn abandon(self) {
        if self.is_new {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Opens every path of a target that has several.
    ///
    /// # Errors
    /// As [`Backing::open`]; [`Error::File`] for a file that is given twice. No file that was made for the others is left then.
    pub(super) fn open_all(paths: &[PathBuf], options: &FileOptions) -> Result<Vec<Backing>, Error> {
        let mut opened: Vec<Backing> = Vec::with_capacity(paths.len());
        for path in paths {
            match check_once(path, opened.iter()).and_then(|()| Backing::open(path, options)) {
                Ok(backing) => opened.push(backing),
                Err(error) => {
                    opened.into_iter().for_each(Backing::abandon);
                    return Err(error);
                }
            }
        }
        Ok(opened)
    }

    fn of(file: File, path: &Path, options: &FileOptions, is_new: bool) -> Result<Backing, Error> {
        let is_block_device = metadata(&file, path)?.file_type().is_block_device();
        let block_bytes = logical_block_bytes(&file, path, is_block_device, options)?;
        let size_bytes = served_size(&file, path, options, is_block_device, block_bytes)?;
        let can_punch = !options.read_only && can_punch_holes(&file, path, is_block_device);
        let memory_align_bytes = if options.direct { direct_memory_align_bytes(&file) } else { 1 };
        let path = path.to_owned();
        Ok(Backing { file, path, size_bytes, block_bytes, memory_align_bytes, can_punch, is_block_device, is_new })
    }

    /// True when `path` leads to this very file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        match (self.file.metadata(), std::fs::metadata(path)) {
            (Ok(own), Ok(other)) if self.is_block_device => own.rdev() == other.rdev(),
            (Ok(own), Ok(other)) => (own.dev(), own.ino()) == (other.dev(), other.ino()),
            _ => false,
        }
    }
}

/// Refuses a file that is open already: its lock alone would say that another process has it.
pub(super) fn check_once<'a>(path: &Path, mut opened: impl Iterator<Item = &'a Backing>) -> Result<(), Error> {
    match opened.find(|first| first.is_at(path)) {
        Some(first) => Err(rule(path, &format!("is given twice (as {} too)", first.path.display()))),
        None => Ok(()),
    }
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

/// A lock on a block device may be udev's, which holds one while it looks at a device that is new or was written to.
pub(super) fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), Error> {
    let operation =
        if read_only { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    let is_block_device = metadata(file, path)?.file_type().is_block_device();
    let until = Instant::now() + if is_block_device { UDEV_LIMIT } else { Duration::ZERO };
    loop {
        match flock(file, operation) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(UDEV_POLL),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::Busy { what: path.display().to_string(), id: None });
            }
            // A file system without locks (some network ones) is served without.
            _ => return Ok(()),
        }
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
    let (alignment, _) = direct_alignment(file);
    match alignment {
        ..=512 => Ok(512),
        513..=4096 if alignment.is_power_of_two() => Ok(alignment),
        _ => Err(rule(path, &format!("direct I/O there needs {alignment}-byte blocks, more than 4096"))),
    }
}

/// What O_DIRECT takes of a file: the alignment of offsets and lengths, and that of memory; 0 where the file system does not say.
fn direct_alignment(file: &File) -> (u32, u32) {
    statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::from_bits_retain(STATX_DIOALIGN))
        .map_or((0, 0), |status| (status.stx_dio_offset_align, status.stx_dio_mem_align))
}

/// Where the file system does not say, a sector: as O_DIRECT was before it could be asked.
fn direct_memory_align_bytes(file: &File) -> u32 {
    match direct_alignment(file).1 {
        alignment if alignment.is_power_of_two() && alignment <= 4096 => alignment,
        _ => 512,
    }
}

fn served_size(
    file: &File,
    path: &Path,
    options: &FileOptions,
    is_block_device: bool,
    block_bytes: u32,
) -> Result<u64, Error> {
    let has = size_of_file(file, path)?;
    let wanted = options.size_bytes.unwrap_or(has);
    ensure_size(file, path, wanted, options.create && !is_block_device)?;
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

fn size_of_file(mut file: &File, path: &Path) -> Result<u64, Error> {
    file.seek(SeekFrom::End(0)).map_err(|source| failed(path, "lseek", &source))
}

/// Grows a file that is shorter than `wanted`, or refuses.
pub(super) fn ensure_size(file: &File, path: &Path, wanted: u64, may_grow: bool) -> Result<(), Error> {
    let has = size_of_file(file, path)?;
    if wanted <= has {
        return Ok(());
    }
    if !may_grow {
        return Err(rule(path, &format!("has {has} bytes, fewer than the {wanted} asked for")));
    }
    file.set_len(wanted).map_err(|source| failed(path, "ftruncate", &source))
}

/// Tries on nothing: beyond the end of a file, which may be beyond what is served of it. Of a block device sysfs knows.
fn can_punch_holes(file: &File, path: &Path, is_block_device: bool) -> bool {
    let Ok(metadata) = metadata(file, path) else { return false };
    if is_block_device {
        return has_write_zeroes(metadata.rdev());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, metadata.len().next_multiple_of(4096), 4096).is_ok()
}

/// What a hole in a block device takes: where the disk has no such request, the kernel writes zeroes for ZERO_RANGE, and for PUNCH_HOLE
/// answers EOPNOTSUPP (BLKDEV_ZERO_NOFALLBACK of `blkdev_fallocate` in block/fops.c).
fn has_write_zeroes(device: u64) -> bool {
    let directory = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    // A partition has no queue of its own; that of its disk is beside it.
    let max_bytes = ["queue", "../queue"]
        .iter()
        .find_map(|queue| std::fs::read_to_string(format!("{directory}/{queue}/write_zeroes_max_bytes")).ok());
    max_bytes.and_then(|text| text.trim().parse::<u64>().ok()).is_some_and(|bytes| bytes > 0)
}

fn metadata(file: &File, path: &Path) -> Result<std::fs::Metadata, Error> {
    file.metadata().map_err(|source| failed(path, "fstat", &source))
}

pub(super) fn failed(path: &Path, syscall: &'static str, source: &std::io::Error) -> Error {
    Error::File {
        path: path.display().to_string(),
        problem: words(source),
        syscall: Some(syscall),
        errno: source.raw_os_error(),
    }
}

pub(super) fn rule(path: &Path, problem: &str) -> Error {
    Error::File { path: path.display().to_string(), problem: problem.into(), syscall: None, errno: None }
}
