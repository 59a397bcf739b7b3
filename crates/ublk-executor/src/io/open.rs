//! How a file is opened, and the opening itself.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use io_uring::{opcode, types};

use super::operation::start_opening;
use crate::reactor::OpKind;

/// What a file is opened for, as of [`std::fs::OpenOptions`]. The descriptor is always closed on `exec` (O_CLOEXEC).
#[derive(Debug, Clone)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    flags: i32,
    mode: u32,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions::new()
    }
}

impl OpenOptions {
    /// For nothing yet; a file that is created gets the mode 0o666, less the umask.
    pub fn new() -> OpenOptions {
        OpenOptions { read: false, write: false, flags: 0, mode: 0o666 }
    }

    /// For reading.
    pub fn read(mut self, read: bool) -> OpenOptions {
        self.read = read;
        self
    }

    /// For writing.
    pub fn write(mut self, write: bool) -> OpenOptions {
        self.write = write;
        self
    }

    /// Creates the file if there is none.
    pub fn create(self, create: bool) -> OpenOptions {
        self.flag(libc::O_CREAT, create)
    }

    /// Creates the file, and fails with EEXIST if there is one.
    pub fn create_new(self, create_new: bool) -> OpenOptions {
        self.flag(libc::O_CREAT | libc::O_EXCL, create_new)
    }

    /// Cuts the file to no bytes.
    pub fn truncate(self, truncate: bool) -> OpenOptions {
        self.flag(libc::O_TRUNC, truncate)
    }

    /// Creates a file without a name in the directory that the path then is (O_TMPFILE). It is gone with its last descriptor, also when the
    /// process is killed, unless [`Directory::link`](super::Directory::link) gives it a name. EOPNOTSUPP where the file system cannot.
    pub fn unnamed(self, unnamed: bool) -> OpenOptions {
        self.flag(libc::O_TMPFILE, unnamed)
    }

    /// Permission bits of a file that is created, less the umask.
    pub fn mode(mut self, mode: u32) -> OpenOptions {
        self.mode = mode;
        self
    }

    /// More flags of `open(2)`: O_DSYNC, O_NOFOLLOW and the like.
    pub fn custom_flags(self, flags: i32) -> OpenOptions {
        self.flag(flags, true)
    }

    fn flag(mut self, flag: i32, is_set: bool) -> OpenOptions {
        self.flags = if is_set { self.flags | flag } else { self.flags & !flag };
        self
    }

    /// # Errors
    /// EINVAL for neither reading nor writing.
    fn all_flags(&self) -> io::Result<i32> {
        let access = match (self.read, self.write) {
            (true, true) => libc::O_RDWR,
            (true, false) => libc::O_RDONLY,
            (false, true) => libc::O_WRONLY,
            (false, false) => {
                let rule = "a file is opened for reading, for writing or for both";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, rule));
            }
        };
        Ok(self.flags | access | libc::O_CLOEXEC)
    }
}

/// Opens `path`, seen from `directory` or else from the working directory, with more flags.
pub(super) async fn open(
    directory: Option<&Rc<OwnedFd>>,
    path: &Path,
    options: &OpenOptions,
    more_flags: i32,
) -> io::Result<OwnedFd> {
    let flags = options.all_flags()? | more_flags;
    // The kernel takes a mode for a file that it may create, and no other.
    let creates = flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE;
    let path = path_of(path)?;
    let entry = opcode::OpenAt::new(fd_of(directory), path.as_ptr())
        .flags(flags)
        .mode(if creates { options.mode } else { 0 })
        .build();
    // SAFETY: the entry points to the path, whose bytes do not move with it; the operation owns path and directory. OPENAT answers with a
    // descriptor.
    unsafe { start_opening(entry, OpKind::Bounded, (path, directory.cloned())) }.await.0
}

/// What paths are seen from.
pub(super) fn fd_of(directory: Option<&Rc<OwnedFd>>) -> types::Fd {
    types::Fd(directory.map_or(libc::AT_FDCWD, |directory| directory.as_raw_fd()))
}

/// # Errors
/// InvalidInput: it contains a zero byte.
pub(super) fn path_of(path: &Path) -> io::Result<CString> {
    let rule = || format!("{}: a path contains no zero byte", path.display());
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, rule()))
}
