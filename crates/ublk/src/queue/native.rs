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
use crate::target::{Progress, QueueTarget, Target, WOKEN};
use crate::{BufferMode, Error, SharedMemory};

/// What a target may do for the request at hand.
pub struct Io<'a> {
    queue: &'a mut Queue,
    memory: Memory<'a>,
    tags: &'a mut [TagState],
    tag: u16,
    /// Where the request's data is, in memory of this process; none in the zero-copy modes.
    data: Option<(&'a Mapping, usize)>,
    /// The same as an address.
    buffer: BufferAddress,
    woken: &'a mut Vec<u16>,
    broken: &'a mut Option<Error>,
}

/// Where the data of requests may be, beside the target's own memory.
#[derive(Clone, Copy)]
struct Memory<'a> {
    /// One buffer per tag.
    buffers: Option<&'a Mapping>,
    shared: Option<&'a SharedMemory>,
}

impl<'a> Io<'a> {
    #[inline]
    fn new(
        queue: &'a mut Queue,
        memory: Memory<'a>,
        tags: &'a mut [TagState],
        tag: u16,
        woken: &'a mut Vec<u16>,
        broken: &'a mut Option<Error>,
    ) -> Io<'a> {
        let request = queue.request(tag);
        let (data, buffer) = match (request.in_shared_memory(), memory.shared) {
            (Some(offset), Some(shared)) => {
                (Some((shared.mapping(), offset)), shared_address(shared, offset, request.len_bytes))
            }
            _ => {
                let offset = usize::from(tag) * queue.device().max_io_bytes() as usize;
                (memory.buffers.map(|buffers| (buffers, offset)), tags[usize::from(tag)].buffer)
            }
        };
        Io { queue, memory, tags, tag, data, buffer, woken, broken }
    }
}

impl Io<'_> {
    /// Starts an operation on the target's file `file` (0 is its first); its end comes to `resume` with `part`.
    #[inline]
    pub fn start(&mut self, file: u16, part: u16, io: BackingIo) {
        let pushed = self.queue.push_backing(self.tag, part, file + 1, self.buffer, io);
        self.started(pushed);
    }

    /// The same for another request that waits ([`Progress::Waiting`]): what is started through it is that one's.
    #[inline]
    pub fn at(&mut self, tag: u16) -> Io<'_> {
        debug_assert!(self.queue.is_open(tag), "tag {tag} has no request");
        Io::new(self.queue, self.memory, self.tags, tag, self.woken, self.broken)
    }

    /// Starts an operation on a socket; only in the modes that have buffers. The socket stays open until its end.
    #[inline]
    pub fn socket(&mut self, part: u16, socket: RawFd, io: SocketIo) {
        let pushed = self.queue.push_socket(self.tag, part, socket, self.buffer, io);
        self.started(pushed);
    }

    #[inline]
    fn started(&mut self, pushed: Result<(), Error>) {
        match pushed {
            Ok(()) => self.tags[usize::from(self.tag)].backing += 1,
            Err(error) => *self.broken = Some(error),
        }
    }

    /// Comes to `resume` with `part` after this long, with a result of no meaning. A request has one of these at a time.
    #[inline]
    pub fn delay(&mut self, part: u16, duration: Duration) {
        let pushed = self.queue.push_delay(self.tag, part, duration);
        self.started(pushed);
    }

    /// Wakes a request that said [`Progress::Waiting`]: `resume` is called for it after this one, with `part` [`WOKEN`].
    #[inline]
    pub fn wake(&mut self, tag: u16) {
        self.woken.push(tag);
    }

    /// Copies the integrity data of the request to `place`.
    ///
    /// # Errors
    /// errno, EIO if the request has less.
    pub fn take_integrity(&mut self, place: BufferAddress, length: usize) -> Result<(), i32> {
        self.queue.copy_integrity(self.tag, place, length, false)
    }

    /// Copies the integrity data of the request from `place`.
    ///
    /// # Errors
    /// As [`Io::take_integrity`].
    pub fn give_integrity(&mut self, place: BufferAddress, length: usize) -> Result<(), i32> {
        self.queue.copy_integrity(self.tag, place, length, true)
    }

    /// Puts bytes into the request's data.
    pub fn fill(&mut self, offset: usize, bytes: &[u8]) {
        if let Some((data, start)) = self.data {
            data.copy_in(start + offset, bytes);
        }
    }

    /// Overwrites the first `length` bytes of the request's data with zeroes.
    pub fn zero_buffer(&mut self, length: usize) {
        if let Some((data, offset)) = self.data {
            data.overwrite_with_zeroes(offset, length);
        }
    }

    /// Fills the request's data from a store.
    pub fn copy_from_store(&mut self, store: &Mapping, store_offset: usize, length: usize) {
        if let Some((data, offset)) = self.data {
            data.copy_from(offset, store, store_offset, length);
        }
    }

    /// Stores the request's data.
    pub fn copy_to_store(&mut self, store: &Mapping, store_offset: usize, length: usize) {
        if let Some((data, offset)) = self.data {
            store.copy_from(store_offset, data, offset, length);
        }
    }
}

#[derive(Clone, Copy)]
struct TagState {
    /// The tag's own buffer, none in the zero-copy modes.
    buffer: BufferAddress,
    /// Backing operations under way.
    backing: u16,
}

/// One queue, its target and its buffers. Backing operations end before the memory that they use is freed.
pub(crate) struct NativeQueue {
    queue: Queue,
    target: Box<dyn QueueTarget>,
    buffers: Option<Mapping>,
    shared_memory: Option<Arc<SharedMemory>>,
    tags: Vec<TagState>,
    /// Requests to resume, each once: with room for all.
    woken: Vec<u16>,
    broken: Option<Error>,
    is_failing: bool,
}

impl NativeQueue {
    pub(crate) fn open(device: &Arc<CharDevice>, slots: &[Slot], target: &dyn Target) -> Result<NativeQueue, Error> {
        let queue = Queue::open_slots(device, slots, &target.files())?;
        let buffers = (!device.buffers().is_zero_copy())
            .then(|| Mapping::new(slots.len() * device.max_io_bytes() as usize))
            .transpose()
            .map_err(|_| Error::NoMemory { what: format!("{} tag buffers", slots.len()), id: Some(device.id()) })?;
        let tags =
            (0..slots.len()).map(|tag| TagState { buffer: tag_buffer(device, buffers.as_ref(), tag), backing: 0 });
        Ok(NativeQueue {
            tags: tags.collect(),
            target: target.queue(device, queue.tags())?,
            queue,
            buffers,
            shared_memory: device.shared_memory().cloned(),
            woken: Vec::with_capacity(slots.len()),
            broken: None,
            is_failing: false,
        })
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Fetches every tag; START_DEV may be sent from now on.
    pub(crate) fn fetch_all(&mut self) -> Result<(), Error> {
        // Only where the driver copies by itself does it take an address.
        let buffers = self.queue.device().buffers();
        let takes_address = !buffers.is_zero_copy() && buffers != BufferMode::UserCopy;
        for tag in self.all_tags() {
            let buffer = if takes_address { self.tags[usize::from(tag)].buffer } else { BufferAddress::NONE };
            self.queue.fetch(tag, buffer)?;
        }
        self.queue.turn(Wait::No)?;
        self.drain();
        self.broken.take().map_or(Ok(()), Err)
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
                    return Err(panicked(self.queue.device(), panic.as_ref()));
                }
            }
            if self.broken.is_some() {
                return self.broken.take().map_or(Ok(()), Err);
            }
            if self.queue.is_over() {
                return Ok(());
            }
            if self.queue.device().is_given_up() && self.queue.backing_open() == 0 {
                // What was answered has to reach the driver.
                return self.queue.turn(Wait::No);
            }
            self.queue.turn(Wait::Forever)?;
        }
    }

    #[inline]
    fn drain(&mut self) {
        while let Some(event) = self.queue.next_event() {
            match event {
                Event::Request(tag) if self.is_failing => self.fail(tag),
                Event::Request(tag) => self.start(tag),
                Event::NeedData(tag) => {
                    let place = self.place(tag);
                    let asked = self.queue.need_data(tag, place);
                    self.note(asked);
                }
                Event::Backing { tag, part, result } => {
                    self.resume(tag, part, result);
                    self.resume_woken();
                }
                Event::Aborted(_) => {}
                Event::Refused(_, errno) => self.refused(errno),
            }
        }
    }

    #[inline]
    fn start(&mut self, tag: u16) {
        match self.queue.device().buffers() {
            BufferMode::Copy | BufferMode::GetData | BufferMode::SharedMemory => {}
            BufferMode::ZeroCopy | BufferMode::AutoZeroCopy => {
                let registered = self.queue.register_pages(tag);
                self.note(registered);
            }
            BufferMode::UserCopy => {
                if let Err(errno) = self.copy_in(tag) {
                    return self.commit(tag, -errno, BufferAddress::NONE);
                }
            }
        }
        let (target, request, mut io) = self.parts(tag);
        let progress = target.start(tag, &request, &mut io);
        self.settle(tag, progress);
    }

    #[inline]
    fn resume(&mut self, tag: u16, part: u16, result: i32) {
        let state = &mut self.tags[usize::from(tag)];
        state.backing -= 1;
        if self.is_failing {
            if state.backing == 0 {
                self.fail(tag);
            }
            return;
        }
        let (target, request, mut io) = self.parts(tag);
        let progress = target.resume(tag, &request, part, result, &mut io);
        self.settle(tag, progress);
    }

    /// Only the end of an operation wakes: a request that is answered at once leaves nothing to wait for.
    #[inline]
    fn resume_woken(&mut self) {
        while let Some(tag) = self.woken.pop() {
            if !self.is_failing {
                let (target, request, mut io) = self.parts(tag);
                let progress = target.resume(tag, &request, WOKEN, 0, &mut io);
                self.settle(tag, progress);
            }
        }
    }

    #[inline]
    fn parts(&mut self, tag: u16) -> (&mut dyn QueueTarget, super::Request, Io<'_>) {
        let request = *self.queue.request(tag);
        let memory = Memory { buffers: self.buffers.as_ref(), shared: self.shared_memory.as_deref() };
        let io = Io::new(&mut self.queue, memory, &mut self.tags, tag, &mut self.woken, &mut self.broken);
        (self.target.as_mut(), request, io)
    }

    #[inline]
    fn settle(&mut self, tag: u16, progress: Progress) {
        let state = self.tags[usize::from(tag)];
        match progress {
            Progress::Pending => assert!(
                state.backing > 0 || self.broken.is_some(),
                "tag {tag} waits for an operation that was never started"
            ),
            Progress::Waiting => {}
            Progress::Done(result) => self.commit(tag, result, state.buffer),
            Progress::DoneAt(result, address) => self.commit(tag, result, address),
            Progress::Appended(result, sector) => {
                let committed = self.queue.commit_append(tag, result, sector);
                self.note(committed);
            }
        }
    }

    #[inline]
    fn commit(&mut self, tag: u16, mut result: i32, mut buffer: BufferAddress) {
        assert!(self.tags[usize::from(tag)].backing == 0, "tag {tag} is answered with I/O open");
        match self.queue.device().buffers() {
            BufferMode::Copy | BufferMode::ZeroCopy | BufferMode::AutoZeroCopy | BufferMode::SharedMemory => {}
            // The driver insists on an address for a read, also for one that failed; nothing is copied to or from it then.
            BufferMode::GetData if buffer == BufferAddress::NONE => buffer = self.place(tag),
            BufferMode::GetData => {}
            BufferMode::UserCopy => {
                result = self.copy_out(tag, result, buffer);
                buffer = BufferAddress::NONE;
            }
        }
        let committed = self.queue.commit(tag, result, buffer);
        self.note(committed);
    }

    /// User-copy mode: takes a write's data.
    #[inline]
    fn copy_in(&mut self, tag: u16) -> Result<(), i32> {
        let request = *self.queue.request(tag);
        if !request.brings_data() {
            return Ok(());
        }
        let place = self.place(tag);
        self.queue.copy_data(tag, place, request.len_bytes as usize, false)
    }

    /// User-copy mode: gives a read its data. The result to commit.
    #[inline]
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
    #[inline]
    fn place(&mut self, tag: u16) -> BufferAddress {
        match self.target.place(self.queue.request(tag)) {
            BufferAddress::NONE => self.tags[usize::from(tag)].buffer,
            place => place,
        }
    }

    fn all_tags(&self) -> impl Iterator<Item = u16> + use<> {
        (0..self.tags.len()).map(|tag| tag as u16) // 65 536 at most, so numbered to 65 535
    }

    fn fail_open_requests(&mut self) {
        for tag in self.all_tags() {
            if self.queue.is_open(tag) && self.tags[usize::from(tag)].backing == 0 {
                self.fail(tag);
            }
        }
    }

    #[inline]
    fn fail(&mut self, tag: u16) {
        self.commit(tag, -libc::EIO, self.tags[usize::from(tag)].buffer);
    }

    /// FETCH, COMMIT or NEED_GET_DATA failed: our own bug, or a device that the driver cannot serve. Never go on to START_DEV then.
    fn refused(&mut self, errno: i32) {
        let source = std::io::Error::from_raw_os_error(-errno);
        let id = Some(self.queue.device().id());
        self.broken = Some(Error::Kernel { id, call: "FETCH_REQ or COMMIT_AND_FETCH_REQ", source });
    }

    #[inline]
    fn note(&mut self, done: Result<(), Error>) {
        if let Err(error) = done {
            self.broken = Some(error);
        }
    }
}

#[allow(unsafe_code)]
fn tag_buffer(device: &CharDevice, buffers: Option<&Mapping>, tag: usize) -> BufferAddress {
    let Some(buffers) = buffers else { return BufferAddress::NONE };
    let bytes = device.max_io_bytes() as usize;
    // SAFETY: `max_io_bytes` of the mapping for each tag; it is dropped after the queue, and Rust touches it by raw copies only.
    unsafe { BufferAddress::new(buffers.address(tag * bytes, bytes)) }
}

#[allow(unsafe_code)]
fn shared_address(shared: &SharedMemory, offset: usize, length: u32) -> BufferAddress {
    // SAFETY: `address` checks that the request's data, which is what it is used for, lies in the mapping; the queue's device keeps that.
    unsafe { BufferAddress::new(shared.mapping().address(offset, length as usize)) }
}

impl Drop for NativeQueue {
    fn drop(&mut self) {
        // Those of a ring that is broken go on: what they use is never freed.
        if !self.queue.finish_backing() {
            std::mem::forget(self.buffers.take());
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
