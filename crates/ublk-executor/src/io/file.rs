//! Files past the page cache.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;

use io_uring::{opcode, squeue, types};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::buffer::IoBuffer;
use super::fixed::{DmaMemory, FileSlot};
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
    opened: Rc<Opened>,
}

/// What operations keep until they have ended.
#[derive(Debug)]
struct Opened {
    slot: Option<FileSlot>,
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
        Ok(DmaFile { opened: Rc::new(Opened { slot: None, file: Rc::new(file) }) })
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
        let file = Rc::clone(&self.opened.file);
        Ok(DmaFile { opened: Rc::new(Opened { slot: Some(FileSlot::new(&file)?), file }) })
    }

    /// Size in bytes, of a file or of a block device. Blocks the thread for a moment.
    ///
    /// # Errors
    /// The kernel's.
    pub fn size(&self) -> io::Result<u64> {
        // A device's metadata do not tell; reads and writes carry their offsets, so the position is nobody's.
        (&*self.opened.file).seek(SeekFrom::End(0))
    }

    /// Fills the buffer from `offset` on: the bytes read, fewer only at the end of the file, and the buffer. Short reads are resumed.
    ///
    /// # Errors
    /// The kernel's; EINVAL for an offset or a length that is no multiple of the block.
    ///
    /// # Panics
    /// Outside of an executor, or when the executor of its first poll has ended.
    pub async fn read_at<B: DmaMemory>(&self, mut buffer: B, offset: u64) -> (io::Result<usize>, B) {
        let mut done = 0;
        while done < buffer.bytes() {
            let entry = self.read_entry(&mut buffer, done, offset);
            // SAFETY: the entry points into the buffer, whose bytes do not move with it; the operation owns both buffer and file.
            let operation: Operation<(B, Rc<Opened>)> =
                unsafe { start(entry, OpKind::Bounded, (buffer, Rc::clone(&self.opened))) };
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
    pub async fn write_at<B: DmaMemory>(&self, mut buffer: B, offset: u64) -> (io::Result<()>, B) {
        let mut done = 0;
        while done < buffer.bytes() {
            let entry = self.write_entry(&mut buffer, done, offset);
            // SAFETY: as in `read_at`.
            let operation: Operation<(B, Rc<Opened>)> =
                unsafe { start(entry, OpKind::Bounded, (buffer, Rc::clone(&self.opened))) };
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
    pub async fn write_and_sync<B: DmaMemory>(&self, mut buffer: B, offset: u64) -> (io::Result<()>, B) {
        let mut done = 0;
        loop {
            let write = self.write_entry(&mut buffer, done, offset);
            let sync = self.sync_entry();
            let held = (buffer, Rc::clone(&self.opened));
            // SAFETY: as in `read_at` and `sync_data`; each of the two owns what it works on.
            let (write, sync) = unsafe {
                start_linked((write, OpKind::Bounded, held), (sync, OpKind::Bounded, Rc::clone(&self.opened)))
            };
            let (written, (back, _)) = write.await;
            let (synced, _) = sync.await;
            buffer = back;
            match written {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(written) => done += written as usize,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), buffer),
            }
            if done == buffer.bytes() {
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
        let entry = self.sync_entry();
        // SAFETY: FSYNC points to no memory; the operation owns the file.
        let operation = unsafe { start(entry, OpKind::Bounded, Rc::clone(&self.opened)) };
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
        let entry = self.entry(|fd| opcode::Fallocate::new(fd, bytes).offset(offset).mode(mode).build());
        // SAFETY: FALLOCATE points to no memory; the operation owns the file.
        let operation = unsafe { start(entry, OpKind::Bounded, Rc::clone(&self.opened)) };
        operation.await.0.map(drop)
    }

    /// Reads the rest of the buffer, from byte `done` on.
    fn read_entry<B: DmaMemory>(&self, buffer: &mut B, done: usize, offset: u64) -> squeue::Entry {
        let (rest, length, offset) = (rest_of(buffer, done), length_of(buffer.bytes() - done), offset + done as u64);
        self.entry(|fd| match buffer.slot() {
            None => opcode::Read::new(fd, rest, length).offset(offset).build(),
            Some(slot) => opcode::ReadFixed::new(fd, rest, length, slot).offset(offset).build(),
        })
    }

    /// Writes the rest of the buffer, from byte `done` on.
    fn write_entry<B: DmaMemory>(&self, buffer: &mut B, done: usize, offset: u64) -> squeue::Entry {
        let (rest, length, offset) = (rest_of(buffer, done), length_of(buffer.bytes() - done), offset + done as u64);
        self.entry(|fd| match buffer.slot() {
            None => opcode::Write::new(fd, rest, length).offset(offset).build(),
            Some(slot) => opcode::WriteFixed::new(fd, rest, length, slot).offset(offset).build(),
        })
    }

    fn sync_entry(&self) -> squeue::Entry {
        self.entry(|fd| opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build())
    }

    /// An entry that names the file, by its slot if it has one here.
    fn entry(&self, build: impl FnOnce(types::Fd) -> squeue::Entry) -> squeue::Entry {
        match self.opened.slot.as_ref().and_then(FileSlot::index) {
            None => build(types::Fd(self.opened.file.as_raw_fd())),
            Some(index) => build(types::Fd(index as i32)).flags(squeue::Flags::FIXED_FILE),
        }
    }
}

fn rest_of(buffer: &mut impl IoBuffer, done: usize) -> *mut u8 {
    debug_assert!(done <= buffer.bytes());
    // SAFETY: `done` is within the buffer, so the rest is of it.
    unsafe { buffer.start().add(done) }
}

/// The kernel takes at most 2 GiB less a page at once; longer buffers are read and written in part.
fn length_of(bytes: usize) -> u32 {
    const LONGEST: usize = (i32::MAX as usize) & !(super::buffer::ALIGNMENT - 1);
    bytes.min(LONGEST) as u32
}
