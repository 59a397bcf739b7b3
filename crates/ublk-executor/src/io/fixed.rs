//! Files and buffers that the ring knows by a number: the kernel looks them up and pins them once, and not for each operation.
//!
//! A slot of the ring's tables belongs to one value, and is given back when its last user, handle or operation, is gone.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};

use super::buffer::{DmaBuffer, IoBuffer};
use crate::executor::{Core, current};
use crate::reactor::Reactor;

/// All slots of a table are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {size} slots for fixed {table} are taken; give some back, or set `Builder::fixed_{table}` higher")]
pub struct NoSlot {
    /// "files" or "buffers".
    pub table: &'static str,
    /// Slots of the table.
    pub size: u32,
}

/// One place in a table of the ring of an executor.
struct Slot {
    core: Weak<Core>,
    index: u32,
    give_back: fn(&mut Reactor, u32),
}

impl Slot {
    fn take(take: impl FnOnce(&mut Reactor) -> io::Result<u32>, give_back: fn(&mut Reactor, u32)) -> io::Result<Slot> {
        let core = current().expect("a slot is taken outside of an executor");
        let index = core.with_reactor(|reactor| match reactor {
            Some(reactor) => take(reactor),
            None => Err(io::Error::from_raw_os_error(libc::ESHUTDOWN)),
        })?;
        Ok(Slot { core: Rc::downgrade(&core), index, give_back })
    }

    /// None on another executor than its own: that one has other tables.
    fn index(&self) -> Option<u32> {
        let core = current()?;
        std::ptr::eq(self.core.as_ptr(), Rc::as_ptr(&core)).then_some(self.index)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.with_reactor(|reactor| reactor.map(|reactor| (self.give_back)(reactor, self.index)));
        }
    }
}

/// A place in the table of files.
pub(super) struct FileSlot(Slot);

impl FileSlot {
    pub(super) fn new(file: &impl AsFd) -> io::Result<FileSlot> {
        Slot::take(|reactor| reactor.take_file_slot(file.as_fd()), Reactor::give_file_slot).map(FileSlot)
    }

    pub(super) fn index(&self) -> Option<u32> {
        self.0.index()
    }
}

impl fmt::Debug for FileSlot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FileSlot({})", self.0.index)
    }
}

/// A [`DmaBuffer`] that is pinned for the ring of one executor: reads and writes of it spare the kernel the pinning. It works on another
/// executor too, as an ordinary buffer. Its slot is given back when it is dropped, and by the ring when an operation had it last.
pub struct FixedBuffer {
    // Before the memory: the kernel lets go of it first.
    slot: Slot,
    buffer: DmaBuffer,
}

assert_not_impl!(FixedBuffer, Send);
assert_not_impl!(FixedBuffer, Sync);

impl FixedBuffer {
    /// Zero-filled, of a length as [`DmaBuffer::new`], pinned for the executor of this thread.
    ///
    /// # Errors
    /// ResourceBusy with [`NoSlot`]: [`crate::executor::Builder::fixed_buffers`] are taken. The kernel's: ENOMEM beyond the limit of locked
    /// memory.
    ///
    /// # Panics
    /// Outside of an executor, and as [`DmaBuffer::new`].
    pub fn new(bytes: usize) -> io::Result<FixedBuffer> {
        let mut buffer = DmaBuffer::new(bytes);
        let (start, bytes) = (buffer.start(), buffer.bytes());
        // SAFETY: the memory is the buffer's, which gives its slot back before it is freed.
        let slot = Slot::take(|reactor| unsafe { reactor.take_buffer_slot(start, bytes) }, Reactor::give_buffer_slot)?;
        Ok(FixedBuffer { slot, buffer })
    }
}

// SAFETY: those of the buffer.
unsafe impl IoBuffer for FixedBuffer {
    fn start(&mut self) -> *mut u8 {
        self.buffer.start()
    }

    fn bytes(&self) -> usize {
        self.buffer.bytes()
    }
}

impl Deref for FixedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer
    }
}

impl DerefMut for FixedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

impl fmt::Debug for FixedBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FixedBuffer({} bytes, slot {})", self.buffer.bytes(), self.slot.index)
    }
}

/// Memory that O_DIRECT takes: [`DmaBuffer`] and [`FixedBuffer`].
pub trait DmaMemory: IoBuffer + sealed::Fixed {}

impl DmaMemory for DmaBuffer {}
impl DmaMemory for FixedBuffer {}

pub(super) mod sealed {
    use super::{DmaBuffer, FixedBuffer};

    pub trait Fixed {
        /// Its place in the table of this executor's ring.
        fn slot(&self) -> Option<u16>;
    }

    impl Fixed for DmaBuffer {
        fn slot(&self) -> Option<u16> {
            None
        }
    }

    impl Fixed for FixedBuffer {
        fn slot(&self) -> Option<u16> {
            self.slot.index().map(|index| index as u16) // the kernel has no larger tables
        }
    }
}
