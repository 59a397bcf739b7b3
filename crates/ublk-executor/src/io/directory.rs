//! Directories: what is in them is created, renamed, removed and looked at without blocking the thread.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use io_uring::{opcode, squeue, types};

use super::metadata::{FileKind, Metadata, metadata_of};
use super::open::{OpenOptions, fd_of, open, path_of};
use super::operation::start;
use crate::blocking::unblock;
use crate::reactor::OpKind;

/// An open directory. Clones share the descriptor. Paths are seen from it; an absolute path is itself.
///
/// What was created, renamed or removed is there after a crash only once [`Directory::sync`] was ready, and the content of a file only
/// after its own `sync_all`.
///
/// Cancel-safety of all operations: dropping the future gives up the answer; the operation may still take place. A descriptor that nobody
/// takes any more is closed.
///
/// # Errors
/// The kernel's, of all operations. InvalidInput for a path with a zero byte.
///
/// # Panics
/// All operations: outside of an executor, or when the executor of their first poll has ended.
///
/// ```no_run
/// # use ublk_executor::LocalExecutor;
/// use ublk_executor::io::Directory;
///
/// # LocalExecutor::new()?.block_on(async {
/// let images = Directory::open("/var/lib/images").await?;
/// images.rename("disk.new", &images, "disk.img").await?;
/// images.sync().await // from here on a crash does not undo it
/// # })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Directory {
    fd: Rc<OwnedFd>,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name there, without the directory's.
    pub name: OsString,
    /// What it stands for; links are not followed. [`FileKind::Unknown`] on file systems that tell by their metadata alone.
    pub kind: FileKind,
}

assert_not_impl!(Directory, Send);

impl Directory {
    /// Opens a directory, seen from the working directory.
    ///
    /// Cancel-safety: that of all operations of [`Directory`].
    ///
    /// # Errors
    /// The kernel's; ENOTDIR for what is none.
    pub async fn open(path: impl AsRef<Path>) -> io::Result<Directory> {
        Directory::open_from(None, path.as_ref()).await
    }

    /// Opens a directory, seen from this one.
    ///
    /// Cancel-safety: that of all operations of [`Directory`].
    ///
    /// # Errors
    /// As [`Directory::open`].
    pub async fn open_directory(&self, path: impl AsRef<Path>) -> io::Result<Directory> {
        Directory::open_from(Some(&self.fd), path.as_ref()).await
    }

    async fn open_from(directory: Option<&Rc<OwnedFd>>, path: &Path) -> io::Result<Directory> {
        let fd = open(directory, path, &OpenOptions::new().read(true), libc::O_DIRECTORY).await?;
        Ok(Directory { fd: Rc::new(fd) })
    }

    pub(super) fn fd(&self) -> &Rc<OwnedFd> {
        &self.fd
    }

    /// Makes a directory with these permission bits, less the umask.
    ///
    /// Cancel-safety: that of all operations of [`Directory`].
    ///
    /// # Errors
    /// The kernel's, EEXIST among them.
    pub async fn create_directory(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        let path = path_of(path.as_ref())?;
        let entry = opcode::MkDirAt::new(self.target(), path.as_ptr()).mode(mode).build();
        // SAFETY: the entry points to the path.
        unsafe { self.run(entry, path) }.await
    }

    /// Gives `from` the name `to`, seen from `target`; a file that is there is replaced, at once for whoever looks.
    ///
    /// Cancel-safety: that of all operations of [`Directory`].
    ///
    /// # Errors
    /// The kernel's: EXDEV for another file system, ENOTEMPTY or EEXIST for a directory that is not empty.
    pub async fn rename(&self, from: impl AsRef<Path>, target: &Directory, to: impl AsRef<Path>) -> io::Result<()> {
        let (from, to) = (path_of(from.as_ref())?, path_of(to.as_ref())?);
        let entry = opcode::RenameAt::new(self.target(), from.as_ptr(), target.target(), to.as_ptr()).build();
        // SAFETY: the entry points to the two paths; the operation owns the second directory too.
        unsafe { self.run(entry, (from, to, Rc::clone(&target.fd))) }.await
    }

    /// Gives an open file one more name, or its first: see [`OpenOptions::unnamed`]. Needs /proc.
    ///
    /// Cancel-safety: that of all operations of [`Directory`].
    ///
    /// # Errors
    /// The kernel's: EEXIST for a name that is taken, EXDEV for another file system.
    pub async fn link(&self, file: &impl AsFd, path: impl AsRef<Path>) -> io::Result<()> {
        let file = file.as_fd().try_clone_to_owned()?;
        // An empty path beside the descriptor would need a capability before Linux 6.10.
        let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let to = path_of(path.as_ref())?;
        let entry = opcode::LinkAt::new(types::Fd(libc::AT_FDCWD), from.as_ptr(), self.target(), to.as_ptr())
            .flags(libc::AT_SYMLINK_FOLLOW)
            .build();
        // SAFETY: the entry points to the two paths; the operation owns the file that the first one names.
        unsafe { self.run(entry, (from, to, file)) }.await
    }

    /// Removes the name of a file, link, device, pipe or socket.
    ///
    /// Cancel-safety: that of all operations of [`Directory`].
    ///
    /// # Errors
    /// The kernel's; EISDIR for a directory.
    pub async fn remove_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.unlink(path.as_ref(), 0).await
    }

    /// Removes an empty directory.
    ///
    /// Cancel-safety: that of all operations of [`Directory`].
    ///
    /// # Errors
    /// The kernel's: ENOTEMPTY, or ENOTDIR for what is none.
    pub async fn remove_directory(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.unlink(path.as_ref(), libc::AT_REMOVEDIR).await
    }

    async fn unlink(&self, path: &Path, flags: i32) -> io::Result<()> {
        let path = path_of(path)?;
        let entry = opcode::UnlinkAt::new(self.target(), path.as_ptr()).flags(flags).build();
        // SAFETY: the entry points to the path.
        unsafe { self.run(entry, path) }.await
    }

    /// Of what the path leads to; links are followed.
    ///
    /// Cancel-safety: that of all operations of [`Directory`].
    ///
    /// # Errors
    /// The kernel's, ENOENT among them.
    pub async fn metadata(&self, path: impl AsRef<Path>) -> io::Result<Metadata> {
        metadata_of(Some(&self.fd), path.as_ref(), 0).await
    }

    /// Of what the path names: of a link itself.
    ///
    /// Cancel-safety: that of all operations of [`Directory`].
    ///
    /// # Errors
    /// The kernel's, ENOENT among them.
    pub async fn symlink_metadata(&self, path: impl AsRef<Path>) -> io::Result<Metadata> {
        metadata_of(Some(&self.fd), path.as_ref(), libc::AT_SYMLINK_NOFOLLOW).await
    }

    /// The names that are in it now, in no order, without `.` and `..`. Read on a thread of the executor's pool.
    ///
    /// Cancel-safety: that of all operations of [`Directory`].
    ///
    /// # Errors
    /// The kernel's. Other: the pool has no thread, see [`BlockingError`](crate::blocking::BlockingError).
    pub async fn entries(&self) -> io::Result<Vec<Entry>> {
        let fd = self.fd.try_clone()?;
        unblock(move || list(&fd)).await?
    }

    /// Names that were added, changed and removed are on the disk when this is ready.
    ///
    /// Cancel-safety: that of all operations of [`Directory`].
    ///
    /// # Errors
    /// The kernel's.
    pub async fn sync(&self) -> io::Result<()> {
        // SAFETY: FSYNC points to no memory.
        unsafe { self.run(opcode::Fsync::new(self.target()).build(), ()) }.await
    }

    /// # Safety
    /// The entry points to nothing but what `held` owns, at addresses that do not change when `held` moves.
    async unsafe fn run<H: 'static>(&self, entry: squeue::Entry, held: H) -> io::Result<()> {
        // SAFETY: the caller's promise; the operation owns the directory.
        unsafe { start(entry, OpKind::Bounded, (held, Rc::clone(&self.fd))) }.await.0.map(drop)
    }

    fn target(&self) -> types::Fd {
        fd_of(Some(&self.fd))
    }
}

fn list(directory: &OwnedFd) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    // Opens it once more: the place in the list belongs to the descriptor.
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push(Entry { name: OsStr::from_bytes(name).to_owned(), kind: entry.file_type().into() });
        }
    }
    Ok(entries)
}
