//! What files with and without the page cache do alike.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::{opcode, squeue, types};
use rustix::fs::{SeekFrom, ftruncate, seek};

use super::fixed::FileSlot;
use super::metadata::{Metadata, metadata_of};
use super::operation::start;
use super::transfer::{Direction, Memory, transfer, write_and_sync};
use crate::blocking::unblock;
use crate::reactor::OpKind;

/// What operations keep until they have ended.
#[derive(Debug)]
pub(super) struct Opened {
    /// Its place in the ring's table of files, if it has one.
    slot: Option<FileSlot>,
    fd: Rc<OwnedFd>,
}

impl Opened {
    /// An entry that names the file, by its slot if it has one here.
    pub(super) fn entry(&self, build: impl FnOnce(types::Fd) -> squeue::Entry) -> squeue::Entry {
        match self.slot.as_ref().and_then(FileSlot::index) {
            None => build(types::Fd(self.fd.as_raw_fd())),
            Some(index) => build(types::Fd(index as i32)).flags(squeue::Flags::FIXED_FILE),
        }
    }

    pub(super) fn sync_entry(&self, flags: types::FsyncFlags) -> squeue::Entry {
        self.entry(|fd| opcode::Fsync::new(fd).flags(flags).build())
    }
}

/// A descriptor of a file, which closes when the last clone and the last operation are done with it.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    opened: Rc<Opened>,
    /// A read that ends within such a block has met the end of the file.
    block_bytes: usize,
}

impl Handle {
    pub(super) fn new(fd: OwnedFd, block_bytes: usize) -> Handle {
        Handle { opened: Rc::new(Opened { slot: None, fd: Rc::new(fd) }), block_bytes }
    }

    pub(super) fn fixed(&self) -> io::Result<Handle> {
        let fd = Rc::clone(&self.opened.fd);
        let opened = Opened { slot: Some(FileSlot::new(&fd)?), fd };
        Ok(Handle { opened: Rc::new(opened), block_bytes: self.block_bytes })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.opened.fd
    }

    pub(super) async fn read<M: Memory>(&self, memory: M, offset: u64) -> (io::Result<usize>, M) {
        transfer(&self.opened, Direction::Read, self.block_bytes, memory, offset).await
    }

    pub(super) async fn write<M: Memory>(&self, memory: M, offset: u64) -> (io::Result<()>, M) {
        let bytes = memory.bytes();
        let (written, memory) = transfer(&self.opened, Direction::Write, 1, memory, offset).await;
        let all = written.and_then(|written| match written == bytes {
            true => Ok(()),
            false => Err(io::ErrorKind::WriteZero.into()),
        });
        (all, memory)
    }

    pub(super) async fn write_and_sync<M: Memory>(&self, memory: M, offset: u64) -> (io::Result<()>, M) {
        write_and_sync(&self.opened, memory, offset).await
    }

    pub(super) async fn sync_data(&self) -> io::Result<()> {
        // SAFETY: FSYNC points to no memory.
        unsafe { self.run(self.opened.sync_entry(types::FsyncFlags::DATASYNC)) }.await
    }

    pub(super) async fn sync_all(&self) -> io::Result<()> {
        // SAFETY: as above.
        unsafe { self.run(self.opened.sync_entry(types::FsyncFlags::empty())) }.await
    }

    pub(super) async fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.fallocate(0, offset, bytes).await
    }

    pub(super) async fn punch_hole(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, bytes).await
    }

    async fn fallocate(&self, mode: i32, offset: u64, bytes: u64) -> io::Result<()> {
        let fallocate = |fd| opcode::Fallocate::new(fd, bytes).offset(offset).mode(mode).build();
        // SAFETY: FALLOCATE points to no memory.
        unsafe { self.run(self.opened.entry(fallocate)) }.await
    }

    /// On a thread of the pool: the ring's FTRUNCATE came with Linux 6.9.
    pub(super) async fn set_len(&self, bytes: u64) -> io::Result<()> {
        let fd = self.opened.fd.try_clone()?;
        unblock(move || ftruncate(fd, bytes)).await?.map_err(io::Error::from)
    }

    pub(super) fn size(&self) -> io::Result<u64> {
        // A device's metadata do not tell; reads and writes carry their offsets, so the position is nobody's.
        Ok(seek(&*self.opened.fd, SeekFrom::End(0))?)
    }

    pub(super) async fn metadata(&self) -> io::Result<Metadata> {
        metadata_of(Some(&self.opened.fd), "".as_ref(), libc::AT_EMPTY_PATH).await
    }

    /// # Safety
    /// The entry points to no memory.
    async unsafe fn run(&self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller's promise; the operation owns the file.
        unsafe { start(entry, OpKind::Bounded, Rc::clone(&self.opened)) }.await.0.map(drop)
    }
}
