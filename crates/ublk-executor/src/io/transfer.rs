//! A read or a write that goes on until all of it is done, whatever part of it the kernel does at once.

use std::io;
use std::rc::Rc;

use io_uring::{opcode, squeue, types};

use super::buffer::{ALIGNMENT, DmaBuffer, IoBuffer};
use super::handle::Opened;
use super::operation::{Operation, start, start_linked};
use crate::reactor::OpKind;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

/// What a transfer fills or empties.
///
/// # Safety
/// The entries point into nothing but what the value owns, at addresses that do not change when it is moved.
pub(super) unsafe trait Memory: 'static {
    fn bytes(&self) -> usize;

    /// Transfers as much as one operation can of what is left after the first `done` bytes, of which there are fewer than `bytes`.
    fn entry(&mut self, direction: Direction, fd: types::Fd, done: usize, offset: u64) -> squeue::Entry;
}

/// Until all is done, nothing more comes, or a part comes that is no multiple of `block_bytes`: the bytes done, and the memory.
pub(super) async fn transfer<M: Memory>(
    file: &Rc<Opened>,
    direction: Direction,
    block_bytes: usize,
    mut memory: M,
    offset: u64,
) -> (io::Result<usize>, M) {
    if let Err(error) = check(offset) {
        return (Err(error), memory);
    }
    let mut done = 0;
    while done < memory.bytes() {
        let entry = file.entry(|fd| memory.entry(direction, fd, done, offset.saturating_add(done as u64)));
        // SAFETY: the entry points into the memory, by the promise of its trait; the operation owns both memory and file.
        let operation: Operation<(M, Rc<Opened>)> = unsafe { start(entry, OpKind::Bounded, (memory, Rc::clone(file))) };
        let (result, (back, _)) = operation.await;
        memory = back;
        match result {
            Ok(bytes) => {
                done += bytes as usize;
                if bytes == 0 || !(bytes as usize).is_multiple_of(block_bytes) {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (Err(error), memory),
        }
    }
    (Ok(done), memory)
}

/// Writes all, each part with a sync of the data behind it.
pub(super) async fn write_and_sync<M: Memory>(file: &Rc<Opened>, mut memory: M, offset: u64) -> (io::Result<()>, M) {
    if let Err(error) = check(offset) {
        return (Err(error), memory);
    }
    let mut done = 0;
    loop {
        let write = file.entry(|fd| memory.entry(Direction::Write, fd, done, offset.saturating_add(done as u64)));
        let sync = file.sync_entry(types::FsyncFlags::DATASYNC);
        let held = (memory, Rc::clone(file));
        // SAFETY: as in `transfer`; FSYNC points to no memory; each of the two owns what it works on.
        let (write, sync) =
            unsafe { start_linked((write, OpKind::Bounded, held), (sync, OpKind::Bounded, Rc::clone(file))) };
        let (written, (back, _)) = write.await;
        let (synced, _) = sync.await;
        memory = back;
        match written {
            Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), memory),
            Ok(written) => done += written as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (Err(error), memory),
        }
        if done == memory.bytes() {
            return (synced.map(drop), memory);
        }
    }
}

/// The highest number would mean the position of the descriptor, which is nobody's.
fn check(offset: u64) -> io::Result<()> {
    i64::try_from(offset).map(drop).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// One buffer.
pub(super) struct One<B> {
    pub(super) buffer: B,
    /// Its place in the ring's table of buffers, if it has one.
    pub(super) slot: fn(&B) -> Option<u16>,
}

// SAFETY: a buffer's bytes do not move with it, by the promise of `IoBuffer`.
unsafe impl<B: IoBuffer> Memory for One<B> {
    fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    fn entry(&mut self, direction: Direction, fd: types::Fd, done: usize, offset: u64) -> squeue::Entry {
        let length = length_of(self.buffer.bytes() - done);
        // SAFETY: `done` is within the buffer, so the rest is of it.
        let rest = unsafe { self.buffer.start().add(done) };
        match (direction, (self.slot)(&self.buffer)) {
            (Direction::Read, None) => opcode::Read::new(fd, rest, length).offset(offset).build(),
            (Direction::Read, Some(slot)) => opcode::ReadFixed::new(fd, rest, length, slot).offset(offset).build(),
            (Direction::Write, None) => opcode::Write::new(fd, rest, length).offset(offset).build(),
            (Direction::Write, Some(slot)) => opcode::WriteFixed::new(fd, rest, length, slot).offset(offset).build(),
        }
    }
}

/// The kernel takes at most 2 GiB less a page at once; longer buffers are read and written in part.
fn length_of(bytes: usize) -> u32 {
    const LONGEST: usize = (i32::MAX as usize) & !(ALIGNMENT - 1);
    bytes.min(LONGEST) as u32
}

/// Most buffers of one operation: UIO_MAXIOV of the kernel.
const MOST_BUFFERS: usize = 1024;

/// Buffers one after the other.
pub(super) struct Many {
    pub(super) buffers: Vec<DmaBuffer>,
    /// What the kernel is told of them; as long as the operation lasts it is not touched.
    rests: Vec<libc::iovec>,
}

impl Many {
    pub(super) fn new(buffers: Vec<DmaBuffer>) -> Many {
        Many { buffers, rests: Vec::new() }
    }

    /// Describes what is left after the first `done` bytes.
    fn describe(&mut self, mut done: usize) {
        self.rests.clear();
        for buffer in &mut self.buffers {
            let bytes = buffer.bytes();
            if done < bytes {
                // SAFETY: `done` is within the buffer, so the rest is of it.
                let rest = unsafe { buffer.start().add(done) };
                self.rests.push(libc::iovec { iov_base: rest.cast(), iov_len: bytes - done });
                if self.rests.len() == MOST_BUFFERS {
                    return;
                }
            }
            done = done.saturating_sub(bytes);
        }
    }
}

// SAFETY: neither the bytes of the buffers nor the content of the vector of their addresses move with them.
unsafe impl Memory for Many {
    fn bytes(&self) -> usize {
        self.buffers.iter().map(IoBuffer::bytes).sum()
    }

    fn entry(&mut self, direction: Direction, fd: types::Fd, done: usize, offset: u64) -> squeue::Entry {
        self.describe(done);
        let (rests, count) = (self.rests.as_ptr(), self.rests.len() as u32);
        match direction {
            Direction::Read => opcode::Readv::new(fd, rests, count).offset(offset).build(),
            Direction::Write => opcode::Writev::new(fd, rests, count).offset(offset).build(),
        }
    }
}
