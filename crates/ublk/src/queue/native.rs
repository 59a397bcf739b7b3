//! Serves the requests of one thread for a native target: hands requests out, passes backing completions on, commits results.
//!
//! A target finds the data of a request in the tag's buffer, or in a fixed buffer of the ring that its operations use without knowing; what
//! the mode of the device needs for that (registration, copies) is done here.
//!
//! Thread: the queue's owner. Invariant: a tag is committed only when none of its backing operations is open, since they use its buffer.
//! A panic in the target is caught here: from then on every request is answered EIO until the device is stopped.

use std::any::Any;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use ublk_executor::{Mapping, Wait};

use super::{BackingIo, BufferAddress, Event, Queue, Slot, SocketIo};
use crate::device::CharDevice;
use crate::shared_memory::SharedTable;
use crate::target::{Progress, QueueTarget, Target, WOKEN};
use crate::{BufferMode, Error};

/// What a target may do for the request at hand.
pub struct Io<'a> {
    serving: &'a mut Serving,
    tag: u16,
}

/// A queue and what its requests need, beside the target.
struct Serving {
    queue: Queue,
    /// One buffer per tag.
    buffers: Option<Mapping>,
    /// Of each tag; none in the zero-copy modes.
    addresses: Vec<BufferAddress>,
    shared_memory: Arc<SharedTable>,
    /// Requests to resume, each once: with room for all.
    woken: Vec<u16>,
    broken: Option<Error>,
}

impl Serving {
    #[inline]
    fn note(&mut self, done: Result<(), Error>) {
        if let Err(error) = done {
            self.broken = Some(error);
        }
    }
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
    #[inline]
    fn buffer(&self) -> BufferAddress {
        match self.shared() {
            None => self.serving.addresses[usize::from(self.tag)],
            Some((mapping, offset)) => shared_address(mapping, offset, self.serving.queue.request(self.tag).len_bytes),
        }
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

/// One queue, its target and its buffers. Backing operations end before the memory that they use is freed.
pub(crate) struct NativeQueue {
    serving: Serving,
    target: Box<dyn QueueTarget>,
    /// See [`QueueTarget::uses_data`].
    uses_data: bool,
    is_failing: bool,
}

impl NativeQueue {
    pub(crate) fn open(device: &Arc<CharDevice>, slots: &[Slot], target: &dyn Target) -> Result<NativeQueue, Error> {
        let queue = Queue::open_slots(device, slots, &target.files())?;
        let buffers = (!device.buffers().is_zero_copy())
            .then(|| Mapping::new(slots.len() * device.max_io_bytes() as usize))
            .transpose()
            .map_err(|_| Error::NoMemory { what: format!("{} tag buffers", slots.len()), id: Some(device.id()) })?;
        let addresses = (0..slots.len()).map(|tag| tag_buffer(device, buffers.as_ref(), tag)).collect();
        let target = target.queue(device, queue.tags())?;
        Ok(NativeQueue {
            uses_data: target.uses_data(),
            target,
            serving: Serving {
                queue,
                buffers,
                addresses,
                shared_memory: Arc::clone(device.shared_memory()),
                woken: Vec::with_capacity(slots.len()),
                broken: None,
            },
            is_failing: false,
        })
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.serving.queue
    }

    /// Fetches every tag; START_DEV may be sent from now on.
    pub(crate) fn fetch_all(&mut self) -> Result<(), Error> {
        let Serving { queue, addresses, .. } = &mut self.serving;
        // Only where the driver copies by itself does it take an address.
        let buffers = queue.buffers();
        let takes_address = !buffers.is_zero_copy() && buffers != BufferMode::UserCopy;
        for tag in all_tags(queue) {
            let address = if takes_address { addresses[usize::from(tag)] } else { BufferAddress::NONE };
            queue.fetch(tag, address)?;
        }
        queue.turn(Wait::No)?;
        self.drain();
        self.serving.broken.take().map_or(Ok(()), Err)
    }

    /// Serves until the device is stopped, quiesced, or given up. `report` hears of a panic in the target, once.
    pub(crate) fn serve(&mut self, report: &dyn Fn(String)) -> Result<(), Error> {
        loop {
            while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.drain())) {
                if !self.is_failing {
                    self.is_failing = true;
                    report(format!("the target panicked: {}", panic_text(panic.as_ref())));
                }
                // In get-data mode it asks the target for addresses.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.fail_open_requests())) {
                    return Err(panicked(self.queue().device(), panic.as_ref()));
                }
            }
            let Serving { queue, broken, .. } = &mut self.serving;
            if broken.is_some() {
                return broken.take().map_or(Ok(()), Err);
            }
            if queue.is_over() {
                return Ok(());
            }
            if queue.device().is_given_up() && queue.backing_open() == 0 {
                // What was answered has to reach the driver.
                return queue.turn(Wait::No);
            }
            queue.turn(Wait::Forever)?;
        }
    }

    #[inline]
    fn drain(&mut self) {
        while let Some(event) = self.serving.queue.next_event() {
            let (tag, progress) = match event {
                Event::Request(tag) => (tag, self.start(tag)),
                Event::Backing { tag, part, result } => (tag, self.resume(tag, part, result)),
                rest => {
                    self.handle(rest);
                    continue;
                }
            };
            self.settle(tag, progress);
            // Those that the end of this one's operation has woken.
            while let Some(tag) = self.serving.woken.pop() {
                self.resume_woken(tag);
            }
        }
    }

    /// What comes but rarely, or in get-data mode.
    #[inline(never)]
    fn handle(&mut self, event: Event) {
        match event {
            Event::NeedData(tag) => {
                let place = self.place(tag);
                let asked = self.serving.queue.need_data(tag, place);
                self.serving.note(asked);
            }
            Event::Refused(_, errno) => self.refused(errno),
            Event::Aborted(_) | Event::Request(_) | Event::Backing { .. } => {}
        }
    }

    #[inline(always)] // in `drain`, as the rest of a request's way
    fn start(&mut self, tag: u16) -> Progress {
        if self.is_failing {
            return Progress::Done(-libc::EIO);
        }
        let serving = &mut self.serving;
        match serving.queue.buffers() {
            BufferMode::ZeroCopy | BufferMode::AutoZeroCopy if self.uses_data => {
                let registered = serving.queue.register_pages(tag);
                serving.note(registered);
            }
            BufferMode::UserCopy => {
                if let Err(errno) = self.copy_in(tag) {
                    return Progress::DoneAt(-errno, BufferAddress::NONE);
                }
            }
            BufferMode::SharedMemory => {
                let place = serving.queue.request(tag).in_shared_memory();
                if place.is_some_and(|place| serving.shared_memory.get(place.index).is_none()) {
                    return Progress::Done(-libc::EIO); // somebody else has registered it, and it is not mapped here
                }
            }
            _ => {}
        }
        let request = *self.serving.queue.request(tag);
        self.target.start(tag, &request, &mut Io { serving: &mut self.serving, tag })
    }

    #[inline(always)]
    fn resume(&mut self, tag: u16, part: u16, result: i32) -> Progress {
        if self.is_failing {
            return if self.queue().has_backing(tag) { Progress::Pending } else { Progress::Done(-libc::EIO) };
        }
        let request = *self.serving.queue.request(tag);
        self.target.resume(tag, &request, part, result, &mut Io { serving: &mut self.serving, tag })
    }

    #[inline(never)]
    fn resume_woken(&mut self, tag: u16) {
        if !self.is_failing {
            let request = *self.serving.queue.request(tag);
            let io = &mut Io { serving: &mut self.serving, tag };
            let progress = self.target.resume(tag, &request, WOKEN, 0, io);
            self.settle(tag, progress);
        }
    }

    #[inline(always)]
    fn settle(&mut self, tag: u16, progress: Progress) {
        let (result, buffer) = match progress {
            Progress::Pending => {
                let is_pending = self.queue().has_backing(tag) || self.serving.broken.is_some();
                assert!(is_pending, "tag {tag} waits for an operation that was never started");
                return;
            }
            Progress::Waiting => return,
            Progress::Done(result) => (result, self.serving.addresses[usize::from(tag)]),
            Progress::DoneAt(result, address) => (result, address),
            Progress::Appended(result, sector) => {
                let committed = self.serving.queue.commit_append(tag, result, sector);
                return self.serving.note(committed);
            }
        };
        self.commit(tag, result, buffer);
    }

    #[inline(always)]
    fn commit(&mut self, tag: u16, mut result: i32, mut buffer: BufferAddress) {
        match self.queue().buffers() {
            // The driver insists on an address for a read, also for one that failed; nothing is copied to or from it then.
            BufferMode::GetData if buffer == BufferAddress::NONE => buffer = self.place(tag),
            BufferMode::UserCopy => {
                result = self.copy_out(tag, result, buffer);
                buffer = BufferAddress::NONE;
            }
            _ => {}
        }
        let committed = self.serving.queue.commit(tag, result, buffer);
        self.serving.note(committed);
    }

    /// User-copy mode: takes a write's data.
    fn copy_in(&mut self, tag: u16) -> Result<(), i32> {
        let request = *self.queue().request(tag);
        if !request.brings_data() {
            return Ok(());
        }
        let place = self.place(tag);
        self.queue().copy_data(tag, place, request.len_bytes as usize, false)
    }

    /// User-copy mode: gives a read its data. The result to commit.
    fn copy_out(&self, tag: u16, result: i32, place: BufferAddress) -> i32 {
        if !self.queue().request(tag).takes_data() || result <= 0 {
            return result;
        }
        match self.queue().copy_data(tag, place, result as usize, true) {
            Ok(()) => result,
            Err(errno) => -errno,
        }
    }

    /// Where a request's data is, or shall go: in the target's store, or in the tag's buffer.
    fn place(&mut self, tag: u16) -> BufferAddress {
        match self.target.place(self.serving.queue.request(tag)) {
            BufferAddress::NONE => self.serving.addresses[usize::from(tag)],
            place => place,
        }
    }

    fn fail_open_requests(&mut self) {
        for tag in all_tags(self.queue()) {
            if self.queue().is_open(tag) && !self.queue().has_backing(tag) {
                self.commit(tag, -libc::EIO, self.serving.addresses[usize::from(tag)]);
            }
        }
    }

    /// FETCH, COMMIT or NEED_GET_DATA failed: our own bug, or a device that the driver cannot serve. Never go on to START_DEV then.
    fn refused(&mut self, errno: i32) {
        let source = std::io::Error::from_raw_os_error(-errno);
        let id = Some(self.queue().device().id());
        self.serving.broken = Some(Error::Kernel { id, call: "FETCH_REQ or COMMIT_AND_FETCH_REQ", source });
    }
}

fn all_tags(queue: &Queue) -> impl Iterator<Item = u16> + use<> {
    (0..queue.tags()).map(|tag| tag as u16) // 65 536 at most, so numbered to 65 535
}

#[allow(unsafe_code)]
fn tag_buffer(device: &CharDevice, buffers: Option<&Mapping>, tag: usize) -> BufferAddress {
    let Some(buffers) = buffers else { return BufferAddress::NONE };
    let bytes = device.max_io_bytes() as usize;
    // SAFETY: `max_io_bytes` of the mapping for each tag; it is dropped after the queue, and Rust touches it by raw copies only.
    unsafe { BufferAddress::new(buffers.address(tag * bytes, bytes)) }
}

#[allow(unsafe_code)]
fn shared_address(shared: &Mapping, offset: usize, length: u32) -> BufferAddress {
    // SAFETY: `address` checks that the request's data, which is what it is used for, lies in the mapping; the queue's device keeps that.
    unsafe { BufferAddress::new(shared.address(offset, length as usize)) }
}

impl Drop for NativeQueue {
    fn drop(&mut self) {
        // Those of a ring that is broken go on: what they use is never freed.
        if !self.serving.queue.finish_backing() {
            std::mem::forget(self.serving.buffers.take());
            Arc::clone(&self.serving.shared_memory).keep();
            std::mem::forget(std::mem::replace(&mut self.target, Box::new(Gone)));
        }
    }
}

/// Stands for a target whose memory the kernel may still use.
struct Gone;

impl QueueTarget for Gone {
    fn start(&mut self, _: u16, _: &super::Request, _: &mut Io<'_>) -> Progress {
        Progress::Done(-libc::EIO)
    }
}

/// The target has panicked where nothing can be answered any more.
pub(crate) fn panicked(device: &CharDevice, panic: &(dyn Any + Send)) -> Error {
    let source = std::io::Error::other(panic_text(panic).to_owned());
    Error::Kernel { id: Some(device.id()), call: "the target panicked", source }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}
