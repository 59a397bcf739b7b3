//! Files past the page cache.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::buffer::{ALIGNMENT, DmaBuffer};
use super::directory::Directory;
use super::fixed::DmaMemory;
use super::handle::Handle;
use super::metadata::Metadata;
use super::open::{OpenOptions, open};
use super::transfer::{Many, One};

/// The smallest block of any device.
const SECTOR_BYTES: usize = 512;

/// A file or block device opened with O_DIRECT. Clones share the descriptor, which closes when the last clone and the last operation are
/// done with it. Offsets and lengths in bytes, in multiples of [`DmaFile::alignment`] (4096 is always right). A [`DmaBuffer`] is as long as it
/// must be; a file whose size is no multiple is read to its end, and written by writing a whole block and [`DmaFile::set_len`].
///
/// Cancel-safety of all operations: dropping the future gives up the answer; the operation may still take place, and buffer and file stay
/// with the ring until it has. A descriptor that nobody takes any more is closed.
///
/// # Panics
/// All operations: outside of an executor, or when the executor of their first poll has ended.
#[derive(Debug, Clone)]
pub struct DmaFile {
    handle: Handle,
}

assert_not_impl!(DmaFile, Send);

impl DmaFile {
    /// Opens a file, seen from the working directory, with O_DIRECT.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// The kernel's; EINVAL where the file system has no O_DIRECT. InvalidInput for options that neither read nor write, or a path with a
    /// zero byte.
    pub async fn open(path: impl AsRef<Path>, options: &OpenOptions) -> io::Result<DmaFile> {
        Ok(DmaFile::new(open(None, path.as_ref(), options, libc::O_DIRECT).await?))
    }

    /// Opens a file, seen from `directory`.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// As [`DmaFile::open`].
    pub async fn open_in(directory: &Directory, path: impl AsRef<Path>, options: &OpenOptions) -> io::Result<DmaFile> {
        Ok(DmaFile::new(open(Some(directory.fd()), path.as_ref(), options, libc::O_DIRECT).await?))
    }

    /// Takes over a file that is open, and switches O_DIRECT on. It must not append (O_APPEND): offsets would be ignored.
    ///
    /// # Errors
    /// The kernel's; EINVAL where the file system has no O_DIRECT.
    pub fn from_std(file: File) -> io::Result<DmaFile> {
        // To the flags that it has: O_DSYNC among them would be lost.
        fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::DIRECT)?;
        Ok(DmaFile::new(file.into()))
    }

    fn new(fd: OwnedFd) -> DmaFile {
        // In the middle of a block the file ends, and from there the kernel would not read.
        DmaFile { handle: Handle::new(fd, SECTOR_BYTES) }
    }

    /// The same file, for whose operations on this executor the kernel need not look the descriptor up. Its slot is given back by the last
    /// of its clones and operations.
    ///
    /// # Errors
    /// ResourceBusy with [`super::NoSlot`]: [`crate::executor::Builder::fixed_files`] are taken. The kernel's.
    ///
    /// # Panics
    /// Outside of an executor.
    pub fn fixed(&self) -> io::Result<DmaFile> {
        Ok(DmaFile { handle: self.handle.fixed()? })
    }

    /// Bytes that offsets and lengths must be multiples of: what the kernel says (Linux 6.1), else 4096, which every block device takes.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// The kernel's.
    pub async fn alignment(&self) -> io::Result<u32> {
        Ok(self.handle.metadata().await?.direct_alignment.unwrap_or(ALIGNMENT as u32))
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
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// The kernel's.
    pub async fn metadata(&self) -> io::Result<Metadata> {
        self.handle.metadata().await
    }

    /// Fills the buffer from `offset` on: the bytes read, fewer only at the end of the file, and the buffer. Short reads are resumed.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// The kernel's; EINVAL for an offset or a length that is no multiple of the block, or an offset of 2^63 or more.
    pub async fn read_at<B: DmaMemory>(&self, buffer: B, offset: u64) -> (io::Result<usize>, B) {
        let (read, one) = self.handle.read(One { buffer, slot: B::slot }, offset).await;
        (read, one.buffer)
    }

    /// Writes the whole buffer at `offset`; short writes are resumed.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// The kernel's, ENOSPC among them; WriteZero when it takes nothing more. What was written before stays written.
    pub async fn write_at<B: DmaMemory>(&self, buffer: B, offset: u64) -> (io::Result<()>, B) {
        let (written, one) = self.handle.write(One { buffer, slot: B::slot }, offset).await;
        (written, one.buffer)
    }

    /// [`DmaFile::write_at`] and [`DmaFile::sync_data`] in one go: the kernel begins the second when the first is done. After a short write
    /// it does not; the rest follows with a sync of its own.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// As [`DmaFile::write_at`] and [`DmaFile::sync_data`]. What was written before stays written.
    pub async fn write_and_sync<B: DmaMemory>(&self, buffer: B, offset: u64) -> (io::Result<()>, B) {
        let (written, one) = self.handle.write_and_sync(One { buffer, slot: B::slot }, offset).await;
        (written, one.buffer)
    }

    /// [`DmaFile::read_at`] into any number of buffers, one after the other: the bytes read in all. One operation takes 1024 of them.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// As [`DmaFile::read_at`].
    pub async fn read_vectored_at(&self, buffers: Vec<DmaBuffer>, offset: u64) -> (io::Result<usize>, Vec<DmaBuffer>) {
        let (read, many) = self.handle.read(Many::new(buffers), offset).await;
        (read, many.buffers)
    }

    /// [`DmaFile::write_at`] of any number of buffers, one after the other. One operation takes 1024 of them: more are not written at once.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// As [`DmaFile::write_at`].
    pub async fn write_vectored_at(&self, buffers: Vec<DmaBuffer>, offset: u64) -> (io::Result<()>, Vec<DmaBuffer>) {
        let (written, many) = self.handle.write(Many::new(buffers), offset).await;
        (written, many.buffers)
    }

    /// What was written, and what is needed to find it, is on the disk when this is ready.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// The kernel's: EIO tells of earlier writes that were lost.
    pub async fn sync_data(&self) -> io::Result<()> {
        self.handle.sync_data().await
    }

    /// [`DmaFile::sync_data`], and all metadata with it.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// The kernel's: EIO tells of earlier writes that were lost.
    pub async fn sync_all(&self) -> io::Result<()> {
        self.handle.sync_all().await
    }

    /// Makes a range take space.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// The kernel's: ENOSPC, or EOPNOTSUPP where the file system cannot.
    pub async fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.handle.allocate(offset, bytes).await
    }

    /// Gives the space of a range back; it reads as zeroes afterwards.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// The kernel's: EOPNOTSUPP where the file system cannot.
    pub async fn punch_hole(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.handle.punch_hole(offset, bytes).await
    }

    /// Cuts the file to that many bytes, or makes it as long with a hole. On a thread of the executor's pool.
    ///
    /// Cancel-safety: that of all operations of [`DmaFile`].
    ///
    /// # Errors
    /// The kernel's: EFBIG, or EINVAL for a file not open for writing.
    pub async fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.handle.set_len(bytes).await
    }
}

impl AsFd for DmaFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.fd().as_fd()
    }
}
