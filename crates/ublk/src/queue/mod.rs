//! The requests of one thread: fetch a request, hand it out, commit its result.
//!
//! A queue here is what one thread serves: one hardware queue, several of them, or some tags of each. Its tags are numbered from 0; they are
//! the driver's own numbers where it serves one hardware queue ([`Slot`] has the rest).
//!
//! Thread: the one that opened it, for its whole life. The driver takes a COMMIT for a tag only from the task that fetched it, and the
//! ring refuses other threads, so nothing here is `Send`. The ring is that of the thread's executor, in which other tasks may run too.
//! Invariant: each tag has exactly one owner: nobody (not fetched, or aborted), the driver, or the server.
//! Nothing in `turn`, `next_event`, `fetch`, `commit` allocates, locks or logs.

#[allow(unsafe_code)]
mod batch;
mod descriptors;
pub(crate) mod io;
mod last_ring;
pub(crate) mod native;
mod request;
pub(crate) mod serving;
mod stats;
#[allow(unsafe_code)]
mod submit;

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use io_uring::types::Timespec;
use ublk_executor::executor::RemoteHandle;
use ublk_executor::external::External;
use ublk_executor::{Completion, LocalExecutor, Mapping, Wait, clock};
use ublk_uapi::{IoCmdOp, IoFlags, RES_ABORT, RES_NEED_GET_DATA, RES_OK};

use crate::control::Opcodes;
use crate::device::CharDevice;
use crate::{BufferMode, Error};
use batch::{Arrival, Batches, Element};
use descriptors::Descriptors;
pub use request::{Op, Request};
pub use stats::{OpStats, QueueStats, Stats};
pub use submit::{BackingIo, BufferAddress, SocketIo};
use submit::{Files, Label, auto_buffer};

/// Submission entries beyond which a larger ring gains nothing: a full one submits itself.
const MAX_SUBMISSIONS: u32 = 4096;

/// Most tags of one thread: what fits into a completion's label. (The table of fixed buffers has 16 384 places, so the zero-copy modes take
/// fewer, and the kernel says so.)
pub const MAX_SLOTS: usize = 1 << 16;

/// More completions than these wait in the kernel's own memory.
const MAX_COMPLETIONS: u32 = 32 << 10;

/// After the driver has begun to take tags back, a queue that has nothing open ends when nothing came for so long. What was sent before
/// comes at once; tags that are still being taken back are not waited for.
const ENDING_WAIT: Duration = Duration::from_millis(20);

/// The end of a batch's answer is taken with the next requests, or after so long: the driver may have refused it, and then those who wait for
/// it send no more.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// What a turn brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A request waits on this tag; it is the server's until `commit`.
    Request(u16),
    /// Get-data mode: a write on this tag waits for the address of its data; answer with `need_data`.
    NeedData(u16),
    /// The tag ended: the device was stopped.
    Aborted(u16),
    /// A backing operation of this tag ended.
    Backing {
        /// Tag that it belongs to.
        tag: u16,
        /// Number that the target gave to the operation.
        part: u16,
        /// Result or -errno.
        result: i32,
    },
    /// The driver refused our command for this tag (-errno): a bug of ours; the tag is lost.
    Refused(u16, i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    Driver,
    Server,
}

/// A tag as the driver numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Hardware queue.
    pub queue: u16,
    /// Tag of that queue.
    pub tag: u16,
}

/// How commands name a tag.
#[derive(Clone, Copy)]
struct TagName {
    slot: Slot,
    /// Index of the slot's hardware queue in `descriptors`.
    area: u16,
    /// What its commands say about the fixed buffer that the driver makes of a request's pages; 0 where it makes none.
    auto_buffer: u64,
}

#[derive(Clone, Copy)]
struct TagState {
    name: TagName,
    owner: Owner,
    /// Get-data mode: the address was given, the data is on its way.
    fetching_data: bool,
    /// Its pages are a fixed buffer by our own doing.
    is_registered: bool,
    /// Backing operations under way for its request.
    backing: u16,
    request: Request,
    started_ticks: u64,
}

/// One hardware queue: a client of its thread's executor.
pub struct Queue {
    external: External,
    executor: Rc<LocalExecutor>,
    /// Of each hardware queue that has tags here.
    descriptors: Vec<Descriptors>,
    device: Arc<CharDevice>,
    /// The mode of the device's buffers, looked at for each request.
    buffers: BufferMode,
    files: Files,
    opcodes: Opcodes,
    /// Where requests come and go many at a time.
    batches: Option<Box<Batches>>,
    tags: Vec<TagState>,
    /// How long each tag's delay is: the kernel reads it when the time-out is submitted.
    delays: Box<[Timespec]>,
    with_driver: u32,
    with_server: u32,
    backing: u32,
    /// A tag was taken back: the device is being stopped or quiesced.
    is_ending: bool,
    batch: Vec<Completion>,
    next_in_batch: usize,
    batch_ticks: u64,
    commit_ticks: u64,
    stats: Arc<QueueStats>,
    /// See `keep`; freed after the ring is closed.
    kept: Option<Mapping>,
}

impl Queue {
    /// Opens one whole hardware queue; else as [`Queue::open_slots`].
    ///
    /// # Errors
    /// As there.
    pub fn open(device: &Arc<CharDevice>, id: u16, files: &[BorrowedFd<'_>]) -> Result<Queue, Error> {
        let slots: Vec<Slot> = (0..device.depth()).map(|tag| Slot { queue: id, tag }).collect();
        Queue::open_slots(device, &slots, files)
    }

    /// Makes an executor on the calling thread, with a ring that has room for the slots. Opens the queue on it: maps the descriptors and
    /// registers `/dev/ublkcN` (file 0) and `files` (from 1 on). In the zero-copy modes there is one fixed buffer per tag, of the tag's number.
    ///
    /// # Errors
    /// [`Error::IoUringDisabled`], [`Error::NoMemory`], [`Error::Kernel`].
    ///
    /// # Panics
    /// With more than [`MAX_SLOTS`] slots.
    pub fn open_slots(device: &Arc<CharDevice>, slots: &[Slot], files: &[BorrowedFd<'_>]) -> Result<Queue, Error> {
        assert!(slots.len() <= MAX_SLOTS, "{} slots for one thread", slots.len());
        let count = slots.len() as u32;
        let in_ring = |error| Error::from_ring(error, Some(device.id()));
        let executor = LocalExecutor::builder()
            .ring_entries(count.next_power_of_two().clamp(16, MAX_SUBMISSIONS))
            .completions((2 * count + 16).min(MAX_COMPLETIONS))
            .build()
            .map_err(|error| Error::from_executor(error, Some(device.id())))?;
        let batch = 2 * slots.len() + 16;
        let external = External::new(&executor, batch).map_err(in_ring)?;
        let all_files: Vec<_> = std::iter::once(device.as_fd()).chain(files.iter().copied()).collect();
        let files = Files::new(&external, &all_files, device.options().plain_files).map_err(in_ring)?;
        if device.buffers().is_zero_copy() {
            external.register_buffer_table(count).map_err(in_ring)?;
        }
        let (descriptors, tags) = map_slots(device, slots)?;
        let batches = device.options().batch.then(|| Batches::open(device, slots, &external)).transpose()?;
        Ok(Queue {
            external,
            executor: Rc::new(executor),
            descriptors,
            device: Arc::clone(device),
            buffers: device.buffers(),
            files,
            opcodes: device.opcodes(),
            batches: batches.map(Box::new),
            delays: vec![Timespec::new(); tags.len()].into_boxed_slice(),
            tags,
            with_driver: 0,
            with_server: 0,
            backing: 0,
            is_ending: false,
            batch: Vec::with_capacity(batch),
            next_in_batch: 0,
            batch_ticks: clock::ticks(),
            commit_ticks: 0,
            stats: Arc::default(),
            kept: None,
        })
    }

    /// How many tags there are.
    pub fn tags(&self) -> u32 {
        self.tags.len() as u32
    }

    /// Handle that ends a turn from any thread.
    pub fn waker(&self) -> RemoteHandle {
        self.executor.remote()
    }

    /// The executor of the queue's thread: for other tasks beside it.
    pub fn executor(&self) -> &Rc<LocalExecutor> {
        &self.executor
    }

    /// Counters and latencies; readable from any thread.
    pub fn stats(&self) -> &Arc<QueueStats> {
        &self.stats
    }

    /// The device that this queue belongs to.
    pub fn device(&self) -> &Arc<CharDevice> {
        &self.device
    }

    /// Tags that the driver or the server owns, and answers that were not sent. 0: every tag was aborted (or never fetched), the queue is over.
    pub fn live_tags(&self) -> u32 {
        self.with_driver + self.with_server + self.batches.as_ref().map_or(0, |batches| batches.unsent())
    }

    /// True when no request will ever come: every tag was aborted; or some were, nothing is open, and a turn brought nothing more. A
    /// device that is quiesced leaves the driver those tags that were committed after it took the others back.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.backing == 0
            && (self.live_tags() == 0 || (self.is_run_out() && self.batch.is_empty() && self.commit_ticks == 0))
    }

    /// True when the queue is ending and nothing is open: what is left to wait for is short, see `turn`.
    #[inline]
    pub fn is_run_out(&self) -> bool {
        self.is_ending && self.with_server == 0 && self.backing == 0
    }

    /// How the data of requests moves.
    #[inline]
    pub(crate) fn buffers(&self) -> BufferMode {
        self.buffers
    }

    /// Backing operations on their way.
    pub fn backing_open(&self) -> u32 {
        self.backing
    }

    /// True while the server owns a request of this tag.
    pub fn is_open(&self, tag: u16) -> bool {
        self.tags.get(usize::from(tag)).is_some_and(|state| state.owner == Owner::Server)
    }

    /// The request on a tag that the server owns.
    #[inline]
    pub fn request(&self, tag: u16) -> &Request {
        &self.tags[usize::from(tag)].request
    }

    /// True while backing operations of the tag's request are on their way.
    #[inline]
    pub(crate) fn has_backing(&self, tag: u16) -> bool {
        self.tags[usize::from(tag)].backing > 0
    }

    /// Ticks at which the tag's request was seen.
    pub fn started_ticks(&self, tag: u16) -> u64 {
        self.tags[usize::from(tag)].started_ticks
    }

    /// Gives a fresh tag to the driver; `buffer` is where its first write's data goes. Submitted by the next turn.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the ring is broken.
    pub fn fetch(&mut self, tag: u16, buffer: BufferAddress) -> Result<(), Error> {
        assert_eq!(self.tags[usize::from(tag)].owner, Owner::Nobody, "tag {tag} fetched twice");
        self.push_fetch(tag, buffer)?;
        self.tags[usize::from(tag)].owner = Owner::Driver;
        self.with_driver += 1;
        Ok(())
    }

    /// Answers the tag's request, with bytes done or -errno, and fetches the next one. `buffer` holds a read's data, and takes the next
    /// write's. Submitted by the next turn.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the ring is broken.
    #[inline(always)]
    pub fn commit(&mut self, tag: u16, result: i32, buffer: BufferAddress) -> Result<(), Error> {
        let state = &mut self.tags[usize::from(tag)];
        assert!(state.owner == Owner::Server, "tag {tag} committed twice");
        assert!(state.backing == 0, "tag {tag} is answered with I/O open");
        assert!(is_within(result, state.request.len_bytes), "tag {tag} returned {result} bytes, too many");
        state.owner = Owner::Driver;
        self.with_server -= 1;
        self.with_driver += 1;
        if self.commit_ticks == 0 {
            self.commit_ticks = clock::ticks();
        }
        self.stats.record(state.request.op, result, self.commit_ticks.wrapping_sub(state.started_ticks));
        let name = state.name;
        if std::mem::take(&mut state.is_registered) {
            self.push_unregister(tag)?;
        }
        let Some(batches) = &mut self.batches else {
            return self.push_command(IoCmdOp::CommitAndFetchReq, tag, name, result, buffer);
        };
        batches.add(name.area, Element { tag: name.slot.tag, buffer_index: tag, result, address: buffer.get() });
        if batches.has_ended(name.area) {
            self.area_ended(name.area); // no request comes to this tag any more
        }
        Ok(())
    }

    /// Answers a zone append: with the sector that its data went to, in place of an address.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the ring is broken.
    #[inline(never)]
    pub(crate) fn commit_append(&mut self, tag: u16, result: i32, sector: u64) -> Result<(), Error> {
        self.commit(tag, result, BufferAddress::sector(sector))
    }

    /// Makes the pages of the tag's request a fixed buffer of the tag's number, if the driver has not done so. A failure shows in the
    /// operations that use it.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the ring is broken.
    #[inline]
    pub(crate) fn register_pages(&mut self, tag: u16) -> Result<(), Error> {
        let state = &mut self.tags[usize::from(tag)];
        let is_ours = match self.buffers {
            BufferMode::ZeroCopy => true,
            BufferMode::AutoZeroCopy => state.request.flags.contains(IoFlags::NEED_REG_BUF),
            _ => false,
        };
        if is_ours && state.request.has_data() {
            state.is_registered = true;
            self.push_register(tag)?;
        }
        Ok(())
    }

    /// Get-data mode: answers [`Event::NeedData`] with the place where the write's data shall go; an [`Event::Request`] follows when it is there.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the ring is broken.
    #[inline]
    pub fn need_data(&mut self, tag: u16, place: BufferAddress) -> Result<(), Error> {
        let state = &mut self.tags[usize::from(tag)];
        assert!(state.owner == Owner::Server, "tag {tag} asked for data that is not its own");
        state.owner = Owner::Driver;
        state.fetching_data = true;
        self.with_server -= 1;
        self.with_driver += 1;
        self.push_need_data(tag, place)
    }

    /// One round of the executor: submits all that was queued, waits as told, and makes the batch for `next_event`. For owners that are no
    /// task of it. A queue that is ending waits 20 ms at most.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the ring is broken.
    #[inline]
    pub fn turn(&mut self, wait: Wait) -> Result<(), Error> {
        let mut wait = if self.is_run_out() { Wait::AtMost(ENDING_WAIT) } else { wait };
        if self.batches.is_some() && self.push_batches()? {
            wait = wait.min(Wait::AtMost(ANSWER_WAIT));
        }
        self.end_batch();
        self.executor.turn(wait).map_err(|error| Error::from_executor(error, Some(self.device.id())))?;
        self.external.take(&mut self.batch);
        self.begin_batch();
        Ok(())
    }

    /// Ready with a batch for `next_event`, for owners that are a task of the executor. Cancel-safe: what was not taken stays.
    #[inline]
    pub fn poll_batch(&mut self, context: &Context<'_>) -> Poll<()> {
        self.end_batch();
        if self.external.poll_next(&mut self.batch, context).is_pending() {
            return Poll::Pending;
        }
        self.begin_batch();
        Poll::Ready(())
    }

    #[inline]
    fn end_batch(&mut self) {
        debug_assert_eq!(self.next_in_batch, self.batch.len(), "the last batch was not drained");
        self.commit_ticks = 0;
        self.stats.publish_in_flight(self.with_server);
    }

    #[inline]
    fn begin_batch(&mut self) {
        self.next_in_batch = 0;
        self.batch_ticks = clock::ticks();
        let (enters, completions) = self.external.counts();
        self.stats.publish_counts(enters, completions);
    }

    /// Next thing that the last turn brought; None when all was taken.
    #[inline(always)] // one loop, which most events never leave
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(tag) = self.batches.as_mut().and_then(|batches| batches.next_tag()) {
                return Some(self.command_completed(tag, RES_OK));
            }
            let Some(&completion) = self.batch.get(self.next_in_batch) else {
                // An owner with an event loop of its own goes to sleep without another turn.
                self.stats.publish_in_flight(self.with_server);
                return None;
            };
            self.next_in_batch += 1;
            let label = Label(completion.data());
            if label.is_backing() {
                self.backing -= 1;
                self.tags[usize::from(label.tag())].backing -= 1;
                return Some(Event::Backing { tag: label.tag(), part: label.part(), result: completion.result });
            }
            if label.is_tag_command() {
                return Some(self.command_completed(label.tag(), completion.result));
            }
            if let Some(errno) = self.batch_completed(label, completion) {
                return Some(Event::Refused(0, errno));
            }
            // Or the registration of pages failed: so does what was to use them.
        }
    }

    /// True while no buffer of this queue holds a request's data, and none gets any before the next turn: no request is with the server, or
    /// on its way to it or back.
    pub fn holds_no_data(&mut self) -> bool {
        let is_told = self.batches.as_ref().is_none_or(|batches| batches.unsent() == 0);
        let is_drained = self.next_in_batch == self.batch.len();
        self.with_server == 0 && self.backing == 0 && is_told && is_drained && self.external.is_quiet()
    }

    /// True when a turn would bring something at once.
    pub fn has_work(&mut self) -> bool {
        self.executor.until_next() == Wait::No
    }

    /// Signals an eventfd whenever the ring has work, for owners that sleep in another event loop.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn register_eventfd(&mut self, fd: BorrowedFd<'_>) -> Result<(), Error> {
        self.external.register_eventfd(fd).map_err(|error| Error::from_ring(error, Some(self.device.id())))
    }

    /// Waits for backing operations: they read and write tag buffers and stores, and closing a ring does not stop them. They are disk I/O, which
    /// ends. False: the ring is broken, and they go on.
    pub(crate) fn finish_backing(&mut self) -> bool {
        while self.next_event().is_some() {}
        while self.backing > 0 && self.turn(Wait::Forever).is_ok() {
            while self.next_event().is_some() {}
        }
        self.backing == 0
    }

    /// Keeps the memory of addresses that the driver has until the ring is closed, which may be after the queue is dropped.
    pub(crate) fn keep(&mut self, memory: Option<Mapping>) {
        self.kept = memory;
    }

    /// A batch command has ended, or brought tags, which `next_tag` hands out. -errno if it was refused.
    #[cold]
    fn batch_completed(&mut self, label: Label, completion: Completion) -> Option<i32> {
        let batches = self.batches.as_mut()?;
        if label.is_batch_commit() {
            return batches.committed(label.tag(), completion.result);
        }
        if !label.is_batch_fetch() {
            return None;
        }
        match batches.fetched(label.tag(), completion.result, completion.more()) {
            Arrival::Tags => None,
            Arrival::End(area) => {
                self.area_ended(area);
                None
            }
            Arrival::Refused(errno) => Some(errno),
        }
    }

    /// Batch mode: the driver is done with a hardware queue, and with its tags.
    fn area_ended(&mut self, area: u16) {
        for state in self.tags.iter_mut().filter(|state| state.name.area == area && state.owner == Owner::Driver) {
            state.owner = Owner::Nobody;
            self.with_driver -= 1;
        }
    }

    #[inline(always)]
    fn command_completed(&mut self, tag: u16, result: i32) -> Event {
        let state = &mut self.tags[usize::from(tag)];
        assert!(state.owner == Owner::Driver, "a completion for tag {tag}, which the driver does not own");
        self.with_driver -= 1;
        match result {
            RES_OK | RES_NEED_GET_DATA => {
                if !std::mem::take(&mut state.fetching_data) {
                    state.started_ticks = self.batch_ticks;
                }
                state.owner = Owner::Server;
                state.request = self.descriptors[usize::from(state.name.area)].read(state.name.slot.tag);
                self.with_server += 1;
                if result == RES_OK { Event::Request(tag) } else { Event::NeedData(tag) }
            }
            RES_ABORT => {
                state.owner = Owner::Nobody;
                self.is_ending = true;
                Event::Aborted(tag)
            }
            errno => {
                state.owner = Owner::Nobody;
                Event::Refused(tag, errno)
            }
        }
    }
}

/// Whether a result can be a request's: bytes, no more than it has, or -errno. One of a device that another program made may be a discard that is
/// longer than an `i32` holds.
fn is_within(result: i32, len_bytes: u32) -> bool {
    i64::from(result) <= i64::from(len_bytes)
}

/// Maps the descriptors of each hardware queue among the slots.
fn map_slots(device: &CharDevice, slots: &[Slot]) -> Result<(Vec<Descriptors>, Vec<TagState>), Error> {
    let mut queues: Vec<u16> = slots.iter().map(|slot| slot.queue).collect();
    queues.sort_unstable();
    queues.dedup();
    let descriptors = queues.iter().map(|&queue| Descriptors::map(device, queue)).collect::<Result<_, _>>()?;
    let auto_buffer = |tag| match device.buffers() {
        BufferMode::AutoZeroCopy => auto_buffer(device.options().fallback, tag as u16),
        _ => 0,
    };
    let name = |tag, slot: Slot| TagName {
        slot,
        area: queues.partition_point(|&queue| queue < slot.queue) as u16,
        auto_buffer: auto_buffer(tag),
    };
    let tags = slots.iter().enumerate().map(|(tag, &slot)| TagState {
        name: name(tag, slot),
        owner: Owner::Nobody,
        fetching_data: false,
        is_registered: false,
        backing: 0,
        request: Request::default(),
        started_ticks: 0,
    });
    Ok((descriptors, tags.collect()))
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.finish_backing();
        // FETCHes end with the ring.
        if self.live_tags() > 0
            && let Ok(ring) = self.external.second_fd()
        {
            last_ring::close_after_this_thread(ring, (self.batches.take(), self.kept.take()));
        }
        if Rc::strong_count(&self.executor) > 1 {
            std::mem::forget((self.batches.take(), self.kept.take())); // whoever has it may turn it still
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_within;

    #[test]
    fn a_result_is_bytes_of_its_request_or_an_error() {
        assert!(is_within(4096, 4096) && is_within(0, 0) && is_within(-libc::EIO, 0));
        assert!(!is_within(4097, 4096));
        assert!(is_within(0, 3 << 30), "a discard of 3 GiB");
    }
}
