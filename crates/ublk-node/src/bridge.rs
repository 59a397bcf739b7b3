//! One queue whose requests JavaScript answers, on the thread that owns its ring: publishes requests, takes completions, keeps deadlines,
//! and answers without JavaScript when that fails.
//!
//! Invariant: a tag is with JavaScript from `publish` until its completion, its deadline, or the queue's failure, whichever comes first. A
//! completion counts only if it names the tag's present generation. Nothing here allocates, locks or calls napi per request.
//! Invariant: a slot that a handler may still use gets no other request's data: a tag past its deadline takes a spare slot until the handler
//! lets go of the old one, and what is answered without its handler is answered with the last slot, which no handler ever sees.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ublk::queue::Request;
use ublk::{Event, Queue, Wait};
use ublk_executor::clock;

use crate::error::NativeError;
use crate::events::NativeEvent;
use crate::layout;
use crate::memory::{QueueMemory, store_load_fence};
use crate::session::{Order, Session, SharedQueue};
use crate::watchdog;

/// Time for a failed queue's tags to come back aborted, before its ring is closed over them.
const RUN_OUT_LIMIT: Duration = Duration::from_secs(10);

const TAG_MASK: u32 = (1 << layout::TAG_BITS) - 1;
const GENERATION_MASK: u32 = (1 << (32 - layout::TAG_BITS)) - 1;
const MAX_ERRNO: i32 = 4095;

/// Why a queue is not served any more.
pub(crate) enum End {
    /// The driver has taken the tags back: the device was stopped or quiesced.
    Over,
    /// [`SharedQueue::order`] says otherwise than to serve.
    Ordered,
    /// The ring or JavaScript's side of it is broken.
    Broken(NativeError),
}

impl From<ublk::Error> for End {
    fn from(error: ublk::Error) -> End {
        End::Broken(error.into())
    }
}

#[derive(Clone, Copy)]
struct Tag {
    slot: u32,
    generation: u32,
    is_with_js: bool,
    len_bytes: u32,
}

/// A slot whose request was answered past its deadline, while its handler goes on.
struct Lent {
    token: u32,
    slot: u32,
}

/// One queue, owned by the calling thread.
pub(crate) struct Bridge {
    queue: Queue,
    session: Arc<Session>,
    shared: Arc<SharedQueue>,
    tags: Vec<Tag>,
    spare_slots: Vec<u32>,
    lent: Vec<Lent>,
    /// JavaScript answers without its handlers.
    is_refusing: bool,
    request_head: u32,
    completion_tail: u32,
    is_failing: bool,
}

impl Bridge {
    /// Opens the ring on the calling thread and fetches every tag.
    pub(crate) fn open(session: &Arc<Session>, id: u16) -> Result<Bridge, NativeError> {
        let char_device = session.open_queue(id)?;
        let opened = Bridge::open_ring(session, id, &char_device);
        drop(char_device);
        if opened.is_err() {
            session.queue_gone(id);
        }
        opened
    }

    fn open_ring(session: &Arc<Session>, id: u16, char_device: &Arc<ublk::CharDevice>) -> Result<Bridge, NativeError> {
        let shared = Arc::clone(&session.queues[usize::from(id)]);
        let _ = ublk::serve::prepare_queue_thread(&shared.cpus);
        let mut queue = Queue::open(char_device, id, &[])?;
        let depth = u32::from(char_device.depth());
        for tag in 0..char_device.depth() {
            queue.fetch(tag, shared.memory.slot(tag.into()))?;
        }
        queue.turn(Wait::No)?;
        // No request comes before START_DEV, and START_DEV must not come after a FETCH that was refused.
        while let Some(event) = queue.next_event() {
            if let Event::Refused(_, errno) = event {
                let source = std::io::Error::from_raw_os_error(-errno);
                return Err(ublk::Error::Kernel { id: Some(session.device_id), call: "FETCH_REQ", source }.into());
            }
        }
        session.queue_serves(id, queue.waker(), Arc::clone(queue.stats()));
        shared.memory.store(layout::STATE, layout::STATE_SERVING as i32);
        let tag = |slot| Tag { slot, generation: 0, is_with_js: false, len_bytes: 0 };
        let spare_slots: Vec<u32> = (depth..shared.memory.last_slot()).collect();
        let request_head = shared.memory.load(layout::REQUEST_HEAD);
        let completion_tail = shared.memory.load(layout::COMPLETION_TAIL);
        Ok(Bridge {
            queue,
            session: Arc::clone(session),
            shared,
            tags: (0..depth).map(tag).collect(),
            lent: Vec::with_capacity(spare_slots.len()),
            spare_slots,
            is_refusing: false,
            request_head,
            completion_tail,
            is_failing: false,
        })
    }

    pub(crate) fn memory(&self) -> &QueueMemory {
        &self.shared.memory
    }

    /// The ring, for owners that sleep in another event loop.
    pub(crate) fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Commits what JavaScript has published, takes a turn, and publishes the requests that it brought. Answers how many.
    #[inline]
    pub(crate) fn turn(&mut self, wait: Wait) -> Result<u32, End> {
        self.take_completions()?;
        self.turn_ring(wait)
    }

    /// The turn alone.
    #[inline]
    pub(crate) fn turn_ring(&mut self, wait: Wait) -> Result<u32, End> {
        self.queue.turn(wait)?;
        let mut published = self.take_events()?;
        if self.shared.is_overdue.load(Ordering::Acquire) {
            self.shared.is_overdue.store(false, Ordering::Release);
            published += self.expire()?;
            self.queue.turn(Wait::No)?;
            published += self.take_events()?;
        }
        // Here and not in the next call: an event loop calls again only when the ring has something.
        while self.queue.is_run_out() && !self.queue.is_over() {
            self.queue.turn(Wait::No)?;
            published += self.take_events()?;
        }
        if self.shared.order() != Order::Serve {
            return Err(End::Ordered);
        }
        if self.queue.is_over() {
            return Err(End::Over);
        }
        Ok(published)
    }

    /// True when JavaScript has published completions that were not taken.
    #[inline]
    pub(crate) fn has_completions(&self) -> bool {
        self.memory().load(layout::COMPLETION_HEAD) != self.completion_tail
    }

    #[inline]
    pub(crate) fn take_completions(&mut self) -> Result<(), End> {
        let head = self.memory().load(layout::COMPLETION_HEAD);
        let count = head.wrapping_sub(self.completion_tail);
        if count == 0 {
            return Ok(());
        }
        if count as usize > self.memory().capacity() {
            return Err(self.broken("its completion ring was overrun"));
        }
        self.is_refusing = self.memory().load(layout::JS_REFUSES) != 0;
        while self.completion_tail != head {
            let (token, result) = self.memory().read_completion(self.completion_tail);
            self.completion_tail = self.completion_tail.wrapping_add(1);
            self.complete(token, result)?;
        }
        self.memory().store(layout::COMPLETION_TAIL, head as i32);
        Ok(())
    }

    /// Answers a request, unless it was answered before: by its deadline, or by a handler that answers twice.
    #[inline]
    fn complete(&mut self, token: u32, result: i32) -> Result<(), End> {
        let number = token & TAG_MASK;
        let Some(tag) = self.tags.get(number as usize).copied() else { return Ok(()) };
        if !tag.is_with_js || tag.generation != token >> layout::TAG_BITS {
            self.take_back(token);
            return Ok(());
        }
        let is_valid = result >= -MAX_ERRNO && i64::from(result) <= i64::from(tag.len_bytes);
        let result = if is_valid { result } else { -libc::EIO };
        // A read's data is in its slot, also when JavaScript refuses by now.
        let slot = if result < 0 && self.is_refusing { self.memory().last_slot() } else { tag.slot };
        self.answer(number as u16, result, slot)
    }

    /// A handler that was too late is done, and its slot free.
    #[cold]
    fn take_back(&mut self, token: u32) {
        if let Some(index) = self.lent.iter().position(|lent| lent.token == token) {
            self.spare_slots.push(self.lent.swap_remove(index).slot);
        }
    }

    #[inline]
    fn answer(&mut self, number: u16, result: i32, slot: u32) -> Result<(), End> {
        self.tags[usize::from(number)].is_with_js = false;
        self.shared.started_ticks[usize::from(number)].store(0, Ordering::Relaxed);
        Ok(self.queue.commit(number, result, self.shared.memory.slot(slot))?)
    }

    #[inline]
    fn take_events(&mut self) -> Result<u32, End> {
        let not_taken = self.request_head.wrapping_sub(self.memory().load(layout::REQUEST_TAIL));
        let room = (self.memory().capacity() as u32).saturating_sub(not_taken);
        let mut published = 0;
        while let Some(event) = self.queue.next_event() {
            match event {
                Event::Request(tag) if self.is_failing => self.answer(tag, -libc::EIO, self.memory().last_slot())?,
                Event::Request(tag) => {
                    if published == room {
                        return Err(self.broken("JavaScript has stopped taking requests"));
                    }
                    self.publish(tag);
                    published += 1;
                }
                Event::Refused(tag, errno) => {
                    let source = std::io::Error::from_raw_os_error(-errno);
                    return Err(self.broken(&format!("the driver refused a command for tag {tag}: {source}")));
                }
                Event::Aborted(_) | Event::NeedData(_) | Event::Backing { .. } => {}
            }
        }
        if self.shared.may_rest.load(Ordering::Relaxed) {
            self.rest();
        }
        if published > 0 {
            self.announce();
        }
        Ok(published)
    }

    #[inline]
    fn announce(&self) {
        self.memory().store(layout::REQUEST_HEAD, self.request_head as i32);
        self.shared.activity.store(self.request_head, Ordering::Relaxed);
        store_load_fence();
        watchdog::requests_published();
    }

    /// After a time without requests: the slots take memory only while they hold data. Data comes in only while this thread is in the ring.
    #[cold]
    fn rest(&mut self) {
        if self.shared.may_rest.swap(false, Ordering::AcqRel) && self.queue.holds_no_data() && !self.is_held() {
            self.memory().give_back();
        }
    }

    /// A handler may still use a slot.
    fn is_held(&self) -> bool {
        self.is_refusing || !self.lent.is_empty() || self.tags.iter().any(|tag| tag.is_with_js)
    }

    #[inline]
    fn publish(&mut self, number: u16) {
        let Request { op, flags, start_sector, len_bytes, .. } = *self.queue.request(number);
        let started_ticks = self.queue.started_ticks(number).max(1);
        let tag = &mut self.tags[usize::from(number)];
        tag.generation = (tag.generation + 1) & GENERATION_MASK;
        tag.is_with_js = true;
        tag.len_bytes = len_bytes;
        let words = [
            tag.generation << layout::TAG_BITS | u32::from(number),
            u32::from(op.code()) | flags.bits(),
            len_bytes,
            tag.slot,
            start_sector as u32,
            (start_sector >> 32) as u32,
        ];
        self.shared.memory.write_request(self.request_head, words);
        self.request_head = self.request_head.wrapping_add(1);
        self.shared.started_ticks[usize::from(number)].store(started_ticks, Ordering::Relaxed);
    }

    /// Answers what is past its deadline with ETIMEDOUT, and tells JavaScript of each. Answers how many.
    #[cold]
    fn expire(&mut self) -> Result<u32, End> {
        let now = clock::ticks();
        let mut expired = 0;
        for number in 0..self.tags.len() as u16 {
            let tag = self.tags[usize::from(number)];
            let age = now.wrapping_sub(self.shared.started_ticks[usize::from(number)].load(Ordering::Relaxed));
            if !tag.is_with_js || age as i64 <= self.shared.deadline_ticks as i64 {
                continue;
            }
            // Its handler may write to the slot at any time, until it says that it is done.
            let Some(spare) = self.spare_slots.pop() else {
                return Err(self.broken("too many handlers are past their deadline: there is no spare buffer left"));
            };
            let token = tag.generation << layout::TAG_BITS | u32::from(number);
            self.lent.push(Lent { token, slot: tag.slot });
            self.tags[usize::from(number)].slot = spare;
            self.answer(number, -libc::ETIMEDOUT, spare)?;
            self.shared.memory.write_request(self.request_head, [token, layout::OP_EXPIRED as u32, 0, 0, 0, 0]);
            self.request_head = self.request_head.wrapping_add(1);
            expired += 1;
            if let Some(device) = self.session.device.upgrade() {
                device.events.call(NativeEvent::request_timeout(self.shared.id));
            }
        }
        if expired > 0 {
            self.announce();
        }
        Ok(expired)
    }

    fn broken(&self, what: &str) -> End {
        let (device, queue) = (self.session.device_id, self.shared.id);
        End::Broken(NativeError::backend(device, format!("queue {queue} of device {device}: {what}")))
    }

    /// Ends the queue: reports what broke, answers everything without JavaScript until all tags are aborted, closes the ring.
    pub(crate) fn close(mut self, end: End) {
        let (session, shared) = (Arc::clone(&self.session), Arc::clone(&self.shared));
        if let End::Broken(error) = end {
            session.fail(shared.id, error);
        }
        shared.memory.store(layout::STATE, layout::STATE_FAILING as i32);
        let is_held = self.is_held();
        // A ring that is broken too ends here: the driver aborts the tags of a ring that closes.
        let _ = self.run_out();
        drop(self);
        if !is_held {
            shared.memory.give_back();
        }
        for started in &shared.started_ticks {
            started.store(0, Ordering::Relaxed);
        }
        shared.memory.store(layout::STATE, layout::STATE_ENDED as i32);
        session.queue_gone(shared.id);
    }

    fn run_out(&mut self) -> Result<(), End> {
        let until = Instant::now() + RUN_OUT_LIMIT;
        self.is_failing = true;
        while self.queue.next_event().is_some() {} // of the turn in which serving ended; the tags are found open below
        if self.shared.order() == Order::Abandon {
            return Ok(()); // unanswered, for the next server
        }
        for number in 0..self.tags.len() as u16 {
            if self.queue.is_open(number) {
                self.answer(number, -libc::EIO, self.memory().last_slot())?;
            }
        }
        while !self.queue.is_over() && Instant::now() < until && self.shared.order() != Order::Abandon {
            self.queue.turn(Wait::AtMost(Duration::from_millis(100)))?;
            self.take_events()?;
        }
        Ok(())
    }
}
