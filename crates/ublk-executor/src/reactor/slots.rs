//! The tables of files and buffers that the kernel knows by number, and which of their places are free.

use std::io;
use std::os::fd::BorrowedFd;

use super::{Port, Reactor};
use crate::io::NoSlot;
use crate::ring::RingError;

/// The free places of one table.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    size: u32,
    free: Vec<u32>,
}

impl Slots {
    fn new(size: u32) -> Slots {
        Slots { size, free: (0..size).rev().collect() }
    }

    fn take(&mut self, table: &'static str) -> io::Result<u32> {
        self.free.pop().ok_or_else(|| io::Error::new(io::ErrorKind::ResourceBusy, NoSlot { table, size: self.size }))
    }
}

/// Makes both tables; none of size 0.
pub(super) fn tables(port: &mut dyn Port, files: u32, buffers: u32) -> Result<(Slots, Slots), RingError> {
    if files > 0 {
        port.register_file_table(files)?;
    }
    if buffers > 0 {
        port.register_buffer_table(buffers)?;
    }
    Ok((Slots::new(files), Slots::new(buffers)))
}

impl Reactor {
    pub(crate) fn take_file_slot(&mut self, file: BorrowedFd<'_>) -> io::Result<u32> {
        let slot = self.files.take("files")?;
        self.port.set_file(slot, Some(file)).inspect_err(|_| self.files.free.push(slot))?;
        Ok(slot)
    }

    pub(crate) fn give_file_slot(&mut self, slot: u32) {
        let _ = self.port.set_file(slot, None); // refused only when it is empty already
        self.files.free.push(slot);
    }

    /// # Safety
    /// The memory stays allocated until the slot was given back, or the ring is closed.
    pub(crate) unsafe fn take_buffer_slot(&mut self, start: *mut u8, bytes: usize) -> io::Result<u32> {
        let slot = self.buffers.take("buffers")?;
        // SAFETY: the caller's promise.
        unsafe { self.port.set_buffer(slot, start, bytes) }.inspect_err(|_| self.buffers.free.push(slot))?;
        Ok(slot)
    }

    pub(crate) fn give_buffer_slot(&mut self, slot: u32) {
        // SAFETY: no memory is named.
        let _ = unsafe { self.port.set_buffer(slot, std::ptr::null_mut(), 0) }; // refused only when it is empty already
        self.buffers.free.push(slot);
    }
}
