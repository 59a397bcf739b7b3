//! What the executor needs of a ring, whatever the width of its entries.

use std::ops::{Deref, DerefMut};
use std::os::fd::{BorrowedFd, OwnedFd};

use io_uring::squeue;

use crate::ring::{Completion, Opcodes, Ring, RingError, Wait};

/// What the executor needs of a ring. Tests put faults in between.
pub(crate) trait Port {
    /// # Safety
    /// As for [`Ring::push`].
    unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<(), RingError>;
    /// # Safety
    /// As for [`Ring::push_all`].
    unsafe fn push_chain(&mut self, entries: &[squeue::Entry]) -> Result<(), RingError>;
    /// # Safety
    /// As for [`Ring::push`].
    unsafe fn push_wide(&mut self, entry: &squeue::Entry128) -> Result<(), RingError>;
    /// As [`Ring::expect_prompt`]: it saves a turn, and need not.
    fn expect_prompt(&mut self) {}
    fn turn(&mut self, wait: Wait) -> Result<(), RingError>;
    /// As [`Ring::reap`].
    fn reap(&mut self, batch: &mut Vec<Completion>) -> Option<usize>;
    fn has_work(&mut self) -> bool;
    fn has_unsubmitted(&mut self) -> bool;
    fn is_quiet(&mut self) -> bool;
    fn register_files(&mut self, files: &[BorrowedFd<'_>]) -> Result<(), RingError>;
    fn register_buffer_table(&mut self, count: u32) -> Result<(), RingError>;
    /// # Safety
    /// As for [`Ring::register_buffer_ring`].
    unsafe fn register_buffer_ring(&mut self, ring: u64, group: u16) -> Result<(), RingError>;
    fn register_file_table(&mut self, count: u32) -> Result<(), RingError>;
    fn set_file(&mut self, slot: u32, file: Option<BorrowedFd<'_>>) -> Result<(), RingError>;
    /// # Safety
    /// As for [`Ring::set_buffer`].
    unsafe fn set_buffer(&mut self, slot: u32, start: *mut u8, bytes: usize) -> Result<(), RingError>;
    fn register_eventfd(&mut self, fd: BorrowedFd<'_>) -> Result<(), RingError>;
    /// As [`Ring::second_fd`].
    fn second_fd(&self) -> Result<OwnedFd, RingError>;
    fn leave_registered(&mut self);
    /// Enters and completions so far.
    fn counts(&self) -> (u64, u64);
    fn opcodes(&self) -> Opcodes;
}

/// The ring of a reactor: the usual one, which is called directly, or any other. Of 360 instructions that a request of a ublk queue takes,
/// the direct calls save 25.
#[allow(clippy::large_enum_variant)] // one for each reactor, and the large one is the usual one
pub(crate) enum AnyPort {
    Usual(Ring),
    Other(Box<dyn Port>),
}

/// What is done for each operation, poll or turn; the rest goes through the trait.
impl AnyPort {
    /// # Safety
    /// As for [`Ring::push`].
    #[inline(always)]
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<(), RingError> {
        match self {
            // SAFETY: the caller's promise.
            AnyPort::Usual(ring) => unsafe { ring.push(entry) },
            // SAFETY: the caller's promise.
            AnyPort::Other(port) => unsafe { port.push(entry) },
        }
    }

    #[inline]
    pub(crate) fn turn(&mut self, wait: Wait) -> Result<(), RingError> {
        match self {
            AnyPort::Usual(ring) => ring.turn(wait),
            AnyPort::Other(port) => port.turn(wait),
        }
    }

    #[inline]
    pub(crate) fn reap(&mut self, batch: &mut Vec<Completion>) -> Option<usize> {
        match self {
            AnyPort::Usual(ring) => ring.reap(batch),
            AnyPort::Other(port) => port.reap(batch),
        }
    }

    #[inline]
    pub(crate) fn has_work(&mut self) -> bool {
        match self {
            AnyPort::Usual(ring) => ring.has_work(),
            AnyPort::Other(port) => port.has_work(),
        }
    }

    #[inline]
    pub(crate) fn counts(&self) -> (u64, u64) {
        match self {
            AnyPort::Usual(ring) => ring.counts(),
            AnyPort::Other(port) => port.counts(),
        }
    }
}

impl Deref for AnyPort {
    type Target = dyn Port;

    fn deref(&self) -> &(dyn Port + 'static) {
        match self {
            AnyPort::Usual(ring) => ring,
            AnyPort::Other(port) => port.as_ref(),
        }
    }
}

impl DerefMut for AnyPort {
    fn deref_mut(&mut self) -> &mut (dyn Port + 'static) {
        match self {
            AnyPort::Usual(ring) => ring,
            AnyPort::Other(port) => port.as_mut(),
        }
    }
}

/// Whether an entry of 128 bytes fits.
pub(crate) trait FromWide: squeue::EntryMarker {
    fn from_wide(entry: &squeue::Entry128) -> Option<Self>;
}

impl FromWide for squeue::Entry {
    fn from_wide(_: &squeue::Entry128) -> Option<squeue::Entry> {
        None
    }
}

impl FromWide for squeue::Entry128 {
    fn from_wide(entry: &squeue::Entry128) -> Option<squeue::Entry128> {
        Some(entry.clone())
    }
}

impl<S: FromWide> Port for Ring<S> {
    unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<(), RingError> {
        // SAFETY: the caller's promise.
        unsafe { Ring::push(self, &S::from(entry.clone())) }
    }

    unsafe fn push_chain(&mut self, entries: &[squeue::Entry]) -> Result<(), RingError> {
        let entries: Vec<S> = entries.iter().cloned().map(S::from).collect();
        // SAFETY: the caller's promise.
        unsafe { Ring::push_all(self, &entries) }
    }

    unsafe fn push_wide(&mut self, entry: &squeue::Entry128) -> Result<(), RingError> {
        let entry = S::from_wide(entry).ok_or(RingError::Narrow)?;
        // SAFETY: the caller's promise.
        unsafe { Ring::push(self, &entry) }
    }

    fn expect_prompt(&mut self) {
        Ring::expect_prompt(self);
    }

    fn turn(&mut self, wait: Wait) -> Result<(), RingError> {
        Ring::turn(self, wait)
    }

    fn reap(&mut self, batch: &mut Vec<Completion>) -> Option<usize> {
        Ring::reap(self, batch)
    }

    fn has_work(&mut self) -> bool {
        Ring::has_work(self)
    }

    fn has_unsubmitted(&mut self) -> bool {
        Ring::has_unsubmitted(self)
    }

    fn is_quiet(&mut self) -> bool {
        Ring::is_quiet(self)
    }

    fn register_files(&mut self, files: &[BorrowedFd<'_>]) -> Result<(), RingError> {
        Ring::register_files(self, files)
    }

    fn register_buffer_table(&mut self, count: u32) -> Result<(), RingError> {
        Ring::register_buffer_table(self, count)
    }

    unsafe fn register_buffer_ring(&mut self, ring: u64, group: u16) -> Result<(), RingError> {
        // SAFETY: the caller's promise.
        unsafe { Ring::register_buffer_ring(self, ring, group) }
    }

    fn register_file_table(&mut self, count: u32) -> Result<(), RingError> {
        Ring::register_file_table(self, count)
    }

    fn set_file(&mut self, slot: u32, file: Option<BorrowedFd<'_>>) -> Result<(), RingError> {
        Ring::set_file(self, slot, file)
    }

    unsafe fn set_buffer(&mut self, slot: u32, start: *mut u8, bytes: usize) -> Result<(), RingError> {
        // SAFETY: the caller's promise.
        unsafe { Ring::set_buffer(self, slot, start, bytes) }
    }

    fn register_eventfd(&mut self, fd: BorrowedFd<'_>) -> Result<(), RingError> {
        Ring::register_eventfd(self, fd)
    }

    fn second_fd(&self) -> Result<OwnedFd, RingError> {
        Ring::second_fd(self)
    }

    fn leave_registered(&mut self) {
        Ring::leave_registered(self);
    }

    fn counts(&self) -> (u64, u64) {
        Ring::counts(self)
    }

    fn opcodes(&self) -> Opcodes {
        Ring::opcodes(self)
    }
}
