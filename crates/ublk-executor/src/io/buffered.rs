//! Files through the page cache.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::buffer::IoBuffer;
use super::directory::Directory;
use super::handle::Handle;
use super::metadata::Metadata;
use super::open::{OpenOptions, open};
use super::transfer::One;

/// A file that is read and written through the page cache, at any offset and length. Clones share the descriptor, which closes when the last
/// clone and the last operation are done with it.
///
/// What the cache does not have is read by the kernel's own threads, never by the executor's.
///
/// Cancel-safety of all operations: dropping the future gives up the answer; the operation may still take place, and buffer and file stay
/// with the ring until it has. A descriptor that nobody takes any more is closed.
///
/// # Panics
/// All operations: outside of an executor, or when the executor of their first poll has ended.
///
/// ```no_run
/// # use ublk_executor::LocalExecutor;
/// use ublk_executor::io::{BufferedFile, OpenOptions};
///
/// # LocalExecutor::new()?.block_on(async {
/// let log = BufferedFile::open("log", &OpenOptions::new().write(true).create(true)).await?;
/// let (written, _) = log.write_at(b"started\n".to_vec(), 0).await;
/// written
/// # })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct BufferedFile {
    handle: Handle,
}

assert_not_impl!(BufferedFile, Send);

impl BufferedFile {
    /// Opens a file, seen from the working directory.
    ///
    /// Cancel-safety: that of all operations of [`BufferedFile`].
    ///
    /// # Errors
    /// The kernel's. InvalidInput for options that neither read nor write, or a path with a zero byte.
    pub async fn open(path: impl AsRef<Path>, options: &OpenOptions) -> io::Result<BufferedFile> {
        Ok(BufferedFile { handle: Handle::new(open(None, path.as_ref(), options, 0).await?, 1) })
    }

    /// Opens a file, seen from `directory`.
    ///
    /// Cancel-safety: that of all operations of [`BufferedFile`].
    ///
    /// # Errors
    /// As [`BufferedFile::open`].
    pub async fn open_in(
        directory: &Directory,
        path: impl AsRef<Path>,
        options: &OpenOptions,
    ) -> io::Result<BufferedFile> {
        Ok(BufferedFile { handle: Handle::new(open(Some(directory.fd()), path.as_ref(), options, 0).await?, 1) })
    }

    /// Takes over a file that is open. It must not append (O_APPEND): offsets would be ignored.
    pub fn from_std(file: File) -> BufferedFile {
        BufferedFile { handle: Handle::new(file.into(), 1) }
    }

    /// Fills the buffer from `offset` on: the bytes read, fewer only at the end of the file, and the buffer. Short reads are resumed.
    ///
    /// Cancel-safety: that of all operations of [`BufferedFile`].
    ///
    /// # Errors
    /// The kernel's; EINVAL for an offset of 2^63 or more.
    pub async fn read_at<B: IoBuffer>(&self, buffer: B, offset: u64) -> (io::Result<usize>, B) {
        let (read, one) = self.handle.read(One { buffer, slot: |_| None }, offset).await;
        (read, one.buffer)
    }

    /// Writes the whole buffer at `offset`; short writes are resumed.
    ///
    /// Cancel-safety: that of all operations of [`BufferedFile`].
    ///
    /// # Errors
    /// The kernel's, ENOSPC among them; WriteZero when it takes nothing more. What was written before stays written.
    pub async fn write_at<B: IoBuffer>(&self, buffer: B, offset: u64) -> (io::Result<()>, B) {
        let (written, one) = self.handle.write(One { buffer, slot: |_| None }, offset).await;
        (written, one.buffer)
    }

    /// What was written, and what is needed to find it, is on the disk when this is ready.
    ///
    /// Cancel-safety: that of all operations of [`BufferedFile`].
    ///
    /// # Errors
    /// The kernel's: EIO tells of earlier writes that were lost.
    pub async fn sync_data(&self) -> io::Result<()> {
        self.handle.sync_data().await
    }

    /// [`BufferedFile::sync_data`], and all metadata with it.
    ///
    /// Cancel-safety: that of all operations of [`BufferedFile`].
    ///
    /// # Errors
    /// The kernel's: EIO tells of earlier writes that were lost.
    pub async fn sync_all(&self) -> io::Result<()> {
        self.handle.sync_all().await
    }

    /// Makes a range take space.
    ///
    /// Cancel-safety: that of all operations of [`BufferedFile`].
    ///
    /// # Errors
    /// The kernel's: ENOSPC, or EOPNOTSUPP where the file system cannot.
    pub async fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.handle.allocate(offset, bytes).await
    }

    /// Gives the space of a range back; it reads as zeroes afterwards.
    ///
    /// Cancel-safety: that of all operations of [`BufferedFile`].
    ///
    /// # Errors
    /// The kernel's: EOPNOTSUPP where the file system cannot.
    pub async fn punch_hole(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.handle.punch_hole(offset, bytes).await
    }

    /// Cuts the file to that many bytes, or makes it as long with a hole. On a thread of the executor's pool.
    ///
    /// Cancel-safety: that of all operations of [`BufferedFile`].
    ///
    /// # Errors
    /// The kernel's: EFBIG, or EINVAL for a file not open for writing.
    pub async fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.handle.set_len(bytes).await
    }

    /// Size in bytes, of a file or of a block device. Blocks the thread for a moment.
    ///
    /// # Errors
    /// The kernel's.
    pub fn size(&self) -> io::Result<u64> {
        self.handle.size()
    }

    /// What the file system knows of it.
    ///
    /// Cancel-safety: that of all operations of [`BufferedFile`].
    ///
    /// # Errors
    /// The kernel's.
    pub async fn metadata(&self) -> io::Result<Metadata> {
        self.handle.metadata().await
    }
}

impl AsFd for BufferedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.fd().as_fd()
    }
}
