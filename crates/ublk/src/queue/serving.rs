//! The loop of a native target's requests: hands them out, passes backing completions on, commits results.
//!
//! A target finds the data of a request in the tag's buffer, or in a fixed buffer of the ring that its operations use without knowing; what
//! the mode of the device needs for that (registration, copies) is done here.
//!
//! Thread: the queue's owner. Invariant: a tag is committed only when none of its backing operations is open, since they use its buffer.
//! Nothing here allocates, locks or logs.

use std::sync::Arc;

use ublk_executor::Mapping;

use super::io::Io;
use super::{BufferAddress, Event, Queue};
use crate::shared_memory::SharedTable;
use crate::target::{Progress, QueueTarget, WOKEN};
use crate::{BufferMode, Error};

/// The loop over what a turn brought, compiled for each target: its `start` and `resume` become a part of it.
pub trait Drain {
    /// Hands out all that the last turn brought, and passes on what the target says to it.
    fn drain(&mut self, serving: &mut Serving);
}

impl<T: QueueTarget> Drain for T {
    fn drain(&mut self, serving: &mut Serving) {
        serving.drain(self);
    }
}

/// A queue and what its requests need, beside the target.
pub struct Serving {
    pub(super) queue: Queue,
    /// One buffer per tag.
    pub(super) buffers: Option<Mapping>,
    /// Of each tag; none in the zero-copy modes.
    pub(super) addresses: Vec<BufferAddress>,
    pub(super) shared_memory: Arc<SharedTable>,
    /// Requests to resume, each once: with room for all.
    pub(super) woken: Vec<u16>,
    pub(super) broken: Option<Error>,
    /// See [`QueueTarget::uses_data`].
    pub(super) uses_data: bool,
    /// The target has panicked: all is answered EIO.
    pub(super) is_failing: bool,
}

impl Serving {
    #[inline]
    pub(super) fn note(&mut self, done: Result<(), Error>) {
        if let Err(error) = done {
            self.broken = Some(error);
        }
    }

    /// The tag's buffer, for commands: only where the driver copies by itself do they take an address.
    pub(super) fn own_buffer(&self, tag: u16) -> BufferAddress {
        match self.queue.buffers() {
            BufferMode::UserCopy => BufferAddress::NONE,
            _ => self.addresses[usize::from(tag)], // NONE in the zero-copy modes
        }
    }

    #[inline(always)] // in the target's own `drain`
    fn drain<T: QueueTarget>(&mut self, target: &mut T) {
        while let Some(event) = self.queue.next_event() {
            match event {
                Event::Request(tag) => {
                    let progress = self.start(target, tag);
                    self.settle(target, tag, progress);
                }
                Event::Backing { tag, part, result } => {
                    let progress = self.resume(target, tag, part, result);
                    self.settle(target, tag, progress);
                }
                Event::NeedData(tag) => self.need_data(target, tag),
                Event::Refused(_, errno) => self.refused(errno),
                Event::Aborted(_) => {}
            }
            // Those that the end of this one's operation has woken.
            while let Some(tag) = self.woken.pop() {
                self.resume_woken(target, tag);
            }
        }
    }

    /// Get-data mode.
    #[inline(never)]
    fn need_data<T: QueueTarget>(&mut self, target: &mut T, tag: u16) {
        let place = self.place(target, tag);
        let asked = self.queue.need_data(tag, place);
        self.note(asked);
    }

    #[inline(always)] // in `drain`, as the rest of a request's way
    fn start<T: QueueTarget>(&mut self, target: &mut T, tag: u16) -> Progress {
        if self.is_failing {
            return Progress::Done(-libc::EIO);
        }
        match self.queue.buffers() {
            BufferMode::ZeroCopy | BufferMode::AutoZeroCopy if self.uses_data => {
                let registered = self.queue.register_pages(tag);
                self.note(registered);
            }
            BufferMode::UserCopy => {
                if let Err(errno) = self.copy_in(target, tag) {
                    return Progress::DoneAt(-errno, BufferAddress::NONE);
                }
            }
            BufferMode::SharedMemory => {
                let place = self.queue.request(tag).in_shared_memory();
                if place.is_some_and(|place| self.shared_memory.get(place.index).is_none()) {
                    return Progress::Done(-libc::EIO); // somebody else has registered it, and it is not mapped here
                }
            }
            _ => {}
        }
        let request = *self.queue.request(tag);
        target.start(tag, &request, &mut Io { serving: self, tag })
    }

    #[inline(always)]
    fn resume<T: QueueTarget>(&mut self, target: &mut T, tag: u16, part: u16, result: i32) -> Progress {
        if self.is_failing {
            return if self.queue.has_backing(tag) { Progress::Pending } else { Progress::Done(-libc::EIO) };
        }
        let request = *self.queue.request(tag);
        target.resume(tag, &request, part, result, &mut Io { serving: self, tag })
    }

    #[inline(never)]
    fn resume_woken<T: QueueTarget>(&mut self, target: &mut T, tag: u16) {
        if !self.is_failing {
            let request = *self.queue.request(tag);
            let io = &mut Io { serving: self, tag };
            let progress = target.resume(tag, &request, WOKEN, 0, io);
            self.settle(target, tag, progress);
        }
    }

    #[inline(always)]
    fn settle<T: QueueTarget>(&mut self, target: &mut T, tag: u16, progress: Progress) {
        match progress {
            Progress::Pending if self.queue.has_backing(tag) => {}
            Progress::Pending => self.nothing_started(tag),
            Progress::Done(result) => self.commit(target, tag, result, self.addresses[usize::from(tag)]),
            Progress::DoneAt(result, address) => self.commit(target, tag, result, address),
            Progress::Waiting => {}
            Progress::Appended(result, sector) => {
                let committed = self.queue.commit_append(tag, result, sector);
                self.note(committed);
            }
        }
    }

    /// What was to be started was refused, and is told as that: or it would never end.
    #[cold]
    fn nothing_started(&self, tag: u16) {
        assert!(self.broken.is_some(), "tag {tag} waits for an operation that was never started");
    }

    #[inline(always)]
    fn commit<T: QueueTarget>(&mut self, target: &mut T, tag: u16, mut result: i32, mut buffer: BufferAddress) {
        match self.queue.buffers() {
            // The driver insists on an address for a read, also for one that failed; nothing is copied to or from it then.
            BufferMode::GetData if buffer == BufferAddress::NONE => buffer = self.place(target, tag),
            BufferMode::UserCopy => {
                result = self.copy_out(tag, result, buffer);
                buffer = BufferAddress::NONE;
            }
            _ => {}
        }
        let committed = self.queue.commit(tag, result, buffer);
        self.note(committed);
    }

    /// User-copy mode: takes a write's data.
    fn copy_in<T: QueueTarget>(&mut self, target: &mut T, tag: u16) -> Result<(), i32> {
        let request = *self.queue.request(tag);
        if !request.brings_data() {
            return Ok(());
        }
        let place = self.place(target, tag);
        self.queue.copy_data(tag, place, request.len_bytes as usize, false)
    }

    /// User-copy mode: gives a read its data. The result to commit.
    fn copy_out(&self, tag: u16, result: i32, place: BufferAddress) -> i32 {
        if !self.queue.request(tag).takes_data() || result <= 0 {
            return result;
        }
        match self.queue.copy_data(tag, place, result as usize, true) {
            Ok(()) => result,
            Err(errno) => -errno,
        }
    }

    /// Where a request's data is, or shall go: in the target's store, or in the tag's buffer.
    fn place<T: QueueTarget>(&mut self, target: &mut T, tag: u16) -> BufferAddress {
        match target.place(self.queue.request(tag)) {
            BufferAddress::NONE => self.addresses[usize::from(tag)],
            place => place,
        }
    }

    /// FETCH, COMMIT or NEED_GET_DATA failed: our own bug, or a device that the driver cannot serve. Never go on to START_DEV then.
    #[cold]
    fn refused(&mut self, errno: i32) {
        let source = std::io::Error::from_raw_os_error(-errno);
        let id = Some(self.queue.device().id());
        self.broken = Some(Error::Kernel { id, call: "FETCH_REQ or COMMIT_AND_FETCH_REQ", source });
    }
}
