//! Files past the page cache.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;

use io_uring::{opcode, types};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::buffer::{DmaBuffer, IoBuffer};
use super::operation::{Operation, start, start_linked};
use crate::reactor::OpKind;

/// The smallest block of any device.
const SECTOR_BYTES: usize = 512;

/// A file or block device opened with O_DIRECT. Clones share the descriptor, which closes when the last clone and the last operation are
/// done with it. Offsets and lengths in bytes, in multiples of what the file system or device asks for (4096 is always right).
///
/// Cancel-safety of all operations: dropping the future gives up the answer; the operation may still take place, and buffer and file stay
/// with the ring until it has.
#[derive(Debug, Clone)]
pub struct DmaFile {
    file: Rc<File>,
}

impl DmaFile {
    /// Opens as `options` say, and switches O_DIRECT on. Blocks the thread for as long as the file system takes.
    ///
    /// # Errors
    /// The kernel's; EINVAL where the file system has no O_DIRECT.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> io::Result<DmaFile> {
        let file = options.open(path)?;
        // Not as one more custom flag: those of the caller, O_DSYNC among them, would be lost.
        fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::DIRECT)?;
        Ok(DmaFile { file: Rc::new(file) })
    }

    /// Size in bytes, of a file or of a block device. Blocks the thread for a moment.
    ///
    /// # Errors
    /// The kernel's.
    pub fn size(&self) -> io::Result<u64> {
        // A device's metadata do not tell; reads and writes carry their offsets, so the position is nobody's.
        (&*self.file).seek(SeekFrom::End(0))
    }

    /// Fills the buffer from `offset` on: the bytes read, fewer only at the end of the file, and the buffer. Short reads are resumed.
    ///
    /// # Errors
    /// The kernel's; EINVAL for an offset or a length that is no multiple of the block.
    ///
    /// # Panics
    /// Outside of an executor, or when the executor of its first poll has ended.
    pub async fn read_at(&self, mut buffer: DmaBuffer, offset: u64) -> (io::Result<usize>, DmaBuffer) {
        let mut done = 0;
        while done < buffer.len() {
            // SAFETY: `done` is within the buffer, so the rest is of it.
            let rest = unsafe { buffer.start().add(done) };
            let entry =
                opcode::Read::new(self.fd(), rest, length_of(buffer.len() - done)).offset(offset + done as u64).build();
            // SAFETY: the entry points into the buffer, whose bytes do not move with it; the operation owns both buffer and file.
            let operation: Operation<(DmaBuffer, Rc<File>)> =
                unsafe { start(entry, OpKind::Bounded, (buffer, Rc::clone(&self.file))) };
            let (result, (back, _)) = operation.await;
            buffer = back;
            match result {
                Ok(read) => {
                    done += read as usize;
                    // In the middle of a block the file ends, and from there the kernel would not read.
                    if read == 0 || !(read as usize).is_multiple_of(SECTOR_BYTES) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(done), buffer)
    }

    /// Writes the whole buffer at `offset`; short writes are resumed.
    ///
    /// # Errors
    /// The kernel's, ENOSPC among them; WriteZero when it takes nothing more. What was written before stays written.
    ///
    /// # Panics
    /// Outside of an executor, or when the executor of its first poll has ended.
    pub async fn write_at(&self, mut buffer: DmaBuffer, offset: u64) -> (io::Result<()>, DmaBuffer) {
        let mut done = 0;
        while done < buffer.len() {
            // SAFETY: `done` is within the buffer, so the rest is of it.
            let rest = unsafe { buffer.start().add(done) };
            let entry = opcode::Write::new(self.fd(), rest, length_of(buffer.len() - done))
                .offset(offset + done as u64)
                .build();
            // SAFETY: as in `read_at`.
            let operation: Operation<(DmaBuffer, Rc<File>)> =
                unsafe { start(entry, OpKind::Bounded, (buffer, Rc::clone(&self.file))) };
            let (result, (back, _)) = operation.await;
            buffer = back;
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(written) => done += written as usize,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }

    /// [`DmaFile::write_at`] and [`DmaFile::sync_data`] in one go: the kernel begins the second when the first is done. After a short write
    /// it does not; the rest follows with a sync of its own.
    ///
    /// # Errors
    /// As [`DmaFile::write_at`] and [`DmaFile::sync_data`]. What was written before stays written.
    ///
    /// # Panics
    /// Outside of an executor, or when the executor of its first poll has ended.
    pub async fn write_and_sync(&self, mut buffer: DmaBuffer, offset: u64) -> (io::Result<()>, DmaBuffer) {
        let mut done = 0;
        loop {
            // SAFETY: `done` is within the buffer, so the rest is of it.
            let rest = unsafe { buffer.start().add(done) };
            let length = length_of(buffer.len() - done);
            let write = opcode::Write::new(self.fd(), rest, length).offset(offset + done as u64).build();
            let sync = opcode::Fsync::new(self.fd()).flags(types::FsyncFlags::DATASYNC).build();
            let held = (buffer, Rc::clone(&self.file));
            // SAFETY: as in `read_at` and `sync_data`; each of the two owns what it works on.
            let (write, sync) =
                unsafe { start_linked((write, OpKind::Bounded, held), (sync, OpKind::Bounded, Rc::clone(&self.file))) };
            let (written, (back, _)) = write.await;
            let (synced, _) = sync.await;
            buffer = back;
            match written {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(written) => done += written as usize,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), buffer),
            }
            if done == buffer.len() {
                return (synced.map(drop), buffer);
            }
        }
    }

    /// What was written, and what is needed to find it, is on the disk when this is ready.
    ///
    /// # Errors
    /// The kernel's: EIO tells of earlier writes that were lost.
    ///
    /// # Panics
    /// Outside of an executor.
    pub async fn sync_data(&self) -> io::Result<()> {
        let entry = opcode::Fsync::new(self.fd()).flags(types::FsyncFlags::DATASYNC).build();
        // SAFETY: FSYNC points to no memory; the operation owns the file.
        let operation = unsafe { start(entry, OpKind::Bounded, Rc::clone(&self.file)) };
        operation.await.0.map(drop)
    }

    /// Makes a range take space.
    ///
    /// # Errors
    /// The kernel's: ENOSPC, or EOPNOTSUPP where the file system cannot.
    ///
    /// # Panics
    /// Outside of an executor.
    pub async fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.fallocate(0, offset, bytes).await
    }

    /// Gives the space of a range back; it reads as zeroes afterwards.
    ///
    /// # Errors
    /// The kernel's: EOPNOTSUPP where the file system cannot.
    ///
    /// # Panics
    /// Outside of an executor.
    pub async fn punch_hole(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, bytes).await
    }

    async fn fallocate(&self, mode: i32, offset: u64, bytes: u64) -> io::Result<()> {
        let entry = opcode::Fallocate::new(self.fd(), bytes).offset(offset).mode(mode).build();
        // SAFETY: FALLOCATE points to no memory; the operation owns the file.
        let operation = unsafe { start(entry, OpKind::Bounded, Rc::clone(&self.file)) };
        operation.await.0.map(drop)
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.file.as_raw_fd())
    }
}

/// The kernel takes at most 2 GiB less a page at once; longer buffers are read and written in part.
fn length_of(bytes: usize) -> u32 {
    const LONGEST: usize = (i32::MAX as usize) & !(super::buffer::ALIGNMENT - 1);
    bytes.min(LONGEST) as u32
}
