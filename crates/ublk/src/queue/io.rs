//! What a native target may do for the request at hand: start operations on files and sockets, wait, wake another one, move its bytes.

use std::os::fd::RawFd;
use std::time::Duration;

use ublk_executor::Mapping;

use super::serving::Serving;
use super::{BackingIo, BufferAddress, SocketIo};
use crate::BufferMode;

/// What a target may do for the request at hand.
pub struct Io<'a> {
    pub(super) serving: &'a mut Serving,
    pub(super) tag: u16,
}

impl Io<'_> {
    /// Where the request's data is, in memory of this process; none in the zero-copy modes.
    #[inline]
    fn data(&self) -> Option<(&Mapping, usize)> {
        let Serving { queue, buffers, .. } = &*self.serving;
        self.shared().or_else(|| {
            let offset = usize::from(self.tag) * queue.device().max_io_bytes() as usize;
            buffers.as_ref().map(|buffers| (buffers, offset))
        })
    }

    /// The same as an address.
    #[inline(always)] // but for what lies in shared memory
    fn buffer(&self) -> BufferAddress {
        let is_shared = self.serving.queue.buffers() == BufferMode::SharedMemory;
        is_shared.then(|| self.shared_buffer()).flatten().unwrap_or(self.serving.addresses[usize::from(self.tag)])
    }

    #[inline(never)]
    fn shared_buffer(&self) -> Option<BufferAddress> {
        let (mapping, offset) = self.shared()?;
        Some(shared_address(mapping, offset, self.serving.queue.request(self.tag).len_bytes))
    }

    /// Where the request's data is in the memory that the device's users share, if it lies there.
    #[inline]
    fn shared(&self) -> Option<(&Mapping, usize)> {
        let Serving { queue, shared_memory, .. } = &*self.serving;
        if queue.buffers() != BufferMode::SharedMemory {
            return None;
        }
        let place = queue.request(self.tag).in_shared_memory()?;
        let shared = shared_memory.get(place.index)?;
        Some((shared.mapping(), place.offset_bytes as usize))
    }

    /// Starts an operation on the target's file `file` (0 is its first); its end comes to `resume` with `part`.
    #[inline(always)] // as `push_backing`
    pub fn start(&mut self, file: u16, part: u16, io: BackingIo) {
        let buffer = self.buffer();
        let pushed = self.serving.queue.push_backing(self.tag, part, file + 1, buffer, io);
        self.serving.note(pushed);
    }

    /// The same for another request that waits ([`Progress::Waiting`]): what is started through it is that one's.
    #[inline]
    pub fn at(&mut self, tag: u16) -> Io<'_> {
        debug_assert!(self.serving.queue.is_open(tag), "tag {tag} has no request");
        Io { serving: self.serving, tag }
    }

    /// Starts an operation on a socket; only in the modes that have buffers. The socket stays open until its end.
    #[inline]
    pub fn socket(&mut self, part: u16, socket: RawFd, io: SocketIo) {
        let buffer = self.buffer();
        let pushed = self.serving.queue.push_socket(self.tag, part, socket, buffer, io);
        self.serving.note(pushed);
    }

    /// Comes to `resume` with `part` after this long, with a result of no meaning. A request has one of these at a time.
    #[inline]
    pub fn delay(&mut self, part: u16, duration: Duration) {
        let pushed = self.serving.queue.push_delay(self.tag, part, duration);
        self.serving.note(pushed);
    }

    /// Wakes a request that said [`Progress::Waiting`]: `resume` is called for it after this one, with `part` [`WOKEN`].
    #[inline]
    pub fn wake(&mut self, tag: u16) {
        self.serving.woken.push(tag);
    }

    /// Copies the integrity data of the request to `place`.
    ///
    /// # Errors
    /// errno, EIO if the request has less.
    pub fn take_integrity(&mut self, place: BufferAddress, length: usize) -> Result<(), i32> {
        self.serving.queue.copy_integrity(self.tag, place, length, false)
    }

    /// Copies the integrity data of the request from `place`.
    ///
    /// # Errors
    /// As [`Io::take_integrity`].
    pub fn give_integrity(&mut self, place: BufferAddress, length: usize) -> Result<(), i32> {
        self.serving.queue.copy_integrity(self.tag, place, length, true)
    }

    /// Puts bytes into the request's data.
    pub fn fill(&mut self, offset: usize, bytes: &[u8]) {
        if let Some((data, start)) = self.data() {
            data.copy_in(start + offset, bytes);
        }
    }

    /// Overwrites the first `length` bytes of the request's data with zeroes.
    pub fn zero_buffer(&mut self, length: usize) {
        if let Some((data, offset)) = self.data() {
            data.overwrite_with_zeroes(offset, length);
        }
    }

    /// Fills the request's data from a store.
    pub fn copy_from_store(&mut self, store: &Mapping, store_offset: usize, length: usize) {
        if let Some((data, offset)) = self.data() {
            data.copy_from(offset, store, store_offset, length);
        }
    }

    /// Stores the request's data.
    pub fn copy_to_store(&mut self, store: &Mapping, store_offset: usize, length: usize) {
        if let Some((data, offset)) = self.data() {
            store.copy_from(store_offset, data, offset, length);
        }
    }
}

#[allow(unsafe_code)]
fn shared_address(shared: &Mapping, offset: usize, length: u32) -> BufferAddress {
    // SAFETY: `address` checks that the request's data, which is what it is used for, lies in the mapping; the queue's device keeps that.
    unsafe { BufferAddress::new(shared.address(offset, length as usize)) }
}
