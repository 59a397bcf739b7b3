//! The ring of one executor: where it sleeps, and its operations under way.
//!
//! An operation owns what the kernel reads and writes: buffers, descriptors, arguments. They stay in the slab from submission to the last
//! completion, whatever becomes of the future that asked. Closing a ring does not stop its operations; so [`Reactor::drain`] waits for
//! them, and what has not ended when the reactor is dropped, for whatever reason, is leaked and counted, never freed.
//!
//! A multishot operation has many results and one end; results wait in the slab until they are taken. A chain is submitted at once or not
//! at all, and each of its members owns its own memory.
//!
//! Foreign code (wakers, destructors) is handed out, and never run in here: it may call the executor, which has lent the reactor.

mod port;
mod slots;

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Instant;

use io_uring::{opcode, squeue, types};
use slotmap::{Key, KeyData, SlotMap};

pub(crate) use self::port::{AnyPort, Port};
use self::slots::{Slots, tables};
use crate::external::{Externals, client_of};
use crate::ring::{Completion, MissingOpcode, Opcodes, RingError, Wait};

slotmap::new_key_type! {
    /// Number of an operation, and its `user_data`. A late or doubled completion finds nothing under it.
    pub(crate) struct OpKey;
}

// No key is like these: their lower half is the index of no slot. Below them are the numbers of external clients.
pub(crate) const WAKE: u64 = u64::MAX;
pub(crate) const CANCEL: u64 = u64::MAX - (1 << 32);

/// How an operation that nobody waits for any more comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpKind {
    /// When it is cancelled: polls, sends, receives.
    Cancelable,
    /// By itself, and soon: reads and writes of disks, which the kernel does not cancel.
    Bounded,
}

/// What an operation owns.
pub(crate) type Held = Box<dyn Any>;

struct Op {
    kind: OpKind,
    /// Its answer is a new descriptor.
    makes_descriptor: bool,
    state: OpState,
    /// Of a multishot operation.
    stream: Option<Stream>,
    held: Held,
}

impl Op {
    /// One that has just been submitted, with one answer that is no descriptor.
    fn new(kind: OpKind, held: Held) -> Op {
        Op { kind, makes_descriptor: false, state: OpState::InFlight(None), stream: None, held }
    }

    /// What is left of an operation that has ended and that nobody asks for: what it held, and the descriptor that it made.
    fn leftover(self, result: i32) -> Held {
        if !self.makes_descriptor || result < 0 {
            return self.held;
        }
        // SAFETY: the kernel made the descriptor for this operation, and has told nobody but us.
        let descriptor = unsafe { OwnedFd::from_raw_fd(result) };
        Box::new((self.held, descriptor))
    }
}

/// Results of a multishot operation that nobody has taken yet. Those that nobody ever takes are discarded: a descriptor must be closed.
struct Stream {
    results: VecDeque<i32>,
    discard: fn(u32),
    is_cancelled: bool,
}

/// A multishot operation whose results nobody takes is cancelled at this many: it ends, and whoever takes them starts it anew.
const STREAM_LIMIT: usize = 1024;

impl Drop for Stream {
    fn drop(&mut self) {
        for result in self.results.drain(..) {
            if let Ok(result) = u32::try_from(result) {
                (self.discard)(result);
            }
        }
    }
}

/// One member of a chain.
pub(crate) struct Link {
    pub(crate) entry: squeue::Entry,
    pub(crate) kind: OpKind,
    pub(crate) held: Held,
}

enum OpState {
    InFlight(Option<Waker>),
    /// Its future is gone.
    Orphaned,
    Done(i32),
}

/// Operations whose memory was leaked because they did not end in time, in this process.
static LEAKED_OPERATIONS: AtomicUsize = AtomicUsize::new(0);

/// Operations of this process that had not ended when their executor did, past its deadline. Their memory is never freed.
pub fn leaked_operations() -> usize {
    LEAKED_OPERATIONS.load(Ordering::Relaxed)
}

pub(crate) struct Reactor {
    pub(crate) port: AnyPort,
    pub(crate) externals: Externals,
    ops: SlotMap<OpKey, Op>,
    in_flight: usize,
    listener: OwnedFd,
    opcodes: Opcodes,
    files: Slots,
    buffers: Slots,
    batch: Vec<Completion>,
    outcome: Outcome,
    /// What the ring has refused and takes later: the poll of the wake, and cancellations.
    unsent: Vec<squeue::Entry>,
    /// Completions that belong to no operation: late or doubled ones. The kernel sends none.
    strays: u64,
}

/// The answer of [`Reactor::poll`].
pub(crate) enum Polled {
    /// Not yet; the waker that was known before, for the caller to drop.
    Pending(Option<Waker>),
    /// The kernel's answer, and what the operation held.
    Ready(i32, Held),
}

/// The answer of [`Reactor::poll_next`].
pub(crate) enum PolledNext {
    /// As [`Polled::Pending`].
    Pending(Option<Waker>),
    /// One more result.
    Item(i32),
    /// There will be no more; what the operation held.
    Ended(Held),
}

/// What an operation that was given up leaves, for the caller to drop.
pub(crate) type Abandoned = (Option<Held>, Option<Waker>);

/// What a turn has brought, for the executor to act on when the reactor is free again: wakers and destructors may call it.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) wakers: Vec<Waker>,
    /// Wakers of those who do not wait any more.
    pub(crate) dropped: Vec<Waker>,
    pub(crate) freed: Vec<Held>,
}

/// Completions that are looked at at a time.
const BATCH: usize = 256;

impl Reactor {
    /// `listener` is readable when the executor was woken; tables for that many fixed files and buffers.
    pub(crate) fn new(
        mut port: AnyPort,
        listener: OwnedFd,
        fixed_files: u32,
        fixed_buffers: u32,
    ) -> Result<Reactor, RingError> {
        let (files, buffers) = tables(&mut *port, fixed_files, fixed_buffers)?;
        let mut reactor = Reactor {
            externals: Externals::default(),
            ops: SlotMap::with_key(),
            in_flight: 0,
            listener,
            opcodes: port.opcodes(),
            port,
            files,
            buffers,
            batch: Vec::with_capacity(BATCH),
            outcome: Outcome::default(),
            unsent: Vec::new(),
            strays: 0,
        };
        reactor.arm_wake();
        Ok(reactor)
    }

    /// Pushes an operation. Gives back what it was to hold when the ring refuses, or the kernel has no such operation.
    ///
    /// # Safety
    /// The entry points to nothing but what `held` owns, at addresses that do not change when the box moves.
    pub(crate) unsafe fn submit(
        &mut self,
        entry: squeue::Entry,
        kind: OpKind,
        held: Held,
    ) -> Result<OpKey, (io::Error, Held)> {
        let op = Op::new(kind, held);
        self.insert(op, entry.get_opcode(), |port, user_data| {
            // SAFETY: `held` is in the slab, which frees it when the last completion was reaped and not before.
            unsafe { port.push(&entry.user_data(user_data)) }
        })
    }

    /// [`Reactor::submit`] of an entry of 128 bytes.
    ///
    /// # Safety
    /// As there.
    pub(crate) unsafe fn submit_wide(
        &mut self,
        entry: squeue::Entry128,
        kind: OpKind,
        held: Held,
    ) -> Result<OpKey, (io::Error, Held)> {
        let op = Op::new(kind, held);
        self.insert(op, entry.get_opcode(), |port, user_data| {
            // SAFETY: as in `submit`.
            unsafe { port.push_wide(&entry.user_data(user_data)) }
        })
    }

    /// [`Reactor::submit`] of a multishot operation; `discard` gets the results that nobody takes, and must not call the executor.
    ///
    /// # Safety
    /// As there.
    pub(crate) unsafe fn submit_multishot(
        &mut self,
        entry: squeue::Entry,
        discard: fn(u32),
        held: Held,
    ) -> Result<OpKey, (io::Error, Held)> {
        let stream = Some(Stream { results: VecDeque::new(), discard, is_cancelled: false });
        let op = Op { stream, ..Op::new(OpKind::Cancelable, held) };
        self.insert(op, entry.get_opcode(), |port, user_data| {
            // SAFETY: as in `submit`.
            unsafe { port.push(&entry.user_data(user_data)) }
        })
    }

    fn insert(
        &mut self,
        op: Op,
        opcode: u32,
        push: impl FnOnce(&mut dyn Port, u64) -> Result<(), RingError>,
    ) -> Result<OpKey, (io::Error, Held)> {
        if let Err(missing) = self.opcodes.check(opcode as u8) {
            return Err((unsupported(missing), op.held));
        }
        let key = self.ops.insert(op);
        match push(&mut *self.port, key.data().as_ffi()) {
            Ok(()) => {
                self.in_flight += 1;
                Ok(key)
            }
            Err(error) => match self.ops.remove(key) {
                Some(op) => Err((error.into(), op.held)),
                None => unreachable!("the operation was put in above"),
            },
        }
    }

    /// Pushes operations of which each begins when the one before it has done all it was asked to; when one fails or does less, those
    /// after it end with ECANCELED. All are pushed, or none: then what they were to hold comes back.
    ///
    /// # Safety
    /// As for [`Reactor::submit`], for each member.
    pub(crate) unsafe fn submit_chain(&mut self, links: Vec<Link>) -> Result<Vec<OpKey>, (io::Error, Vec<Held>)> {
        let missing = links.iter().find_map(|link| self.opcodes.check(link.entry.get_opcode() as u8).err());
        if let Some(missing) = missing {
            return Err((unsupported(missing), links.into_iter().map(|link| link.held).collect()));
        }
        let (mut keys, mut entries) = (Vec::with_capacity(links.len()), Vec::with_capacity(links.len()));
        let last = links.len().saturating_sub(1);
        for (index, Link { entry, kind, held }) in links.into_iter().enumerate() {
            let key = self.ops.insert(Op::new(kind, held));
            let entry = entry.user_data(key.data().as_ffi());
            entries.push(if index < last { entry.flags(squeue::Flags::IO_LINK) } else { entry });
            keys.push(key);
        }
        // SAFETY: as in `submit`, for each.
        match unsafe { self.port.push_chain(&entries) } {
            Ok(()) => {
                self.in_flight += keys.len();
                Ok(keys)
            }
            Err(error) => {
                let held = keys.into_iter().filter_map(|key| self.ops.remove(key)).map(|op| op.held).collect();
                Err((error.into(), held))
            }
        }
    }

    /// The answer of this operation, which has just been submitted, will be a new descriptor: it is closed if nobody takes it.
    pub(crate) fn makes_descriptor(&mut self, key: OpKey) {
        if let Some(op) = self.ops.get_mut(key) {
            op.makes_descriptor = true;
        }
    }

    /// The result of an operation, and what it held. None under `key`: it was taken before.
    pub(crate) fn poll(&mut self, key: OpKey, waker: &Waker) -> Option<Polled> {
        let op = self.ops.get_mut(key)?;
        match &mut op.state {
            OpState::InFlight(Some(known)) if known.will_wake(waker) => Some(Polled::Pending(None)),
            OpState::InFlight(known) => Some(Polled::Pending(known.replace(waker.clone()))),
            OpState::Done(result) => {
                let result = *result;
                self.ops.remove(key).map(|op| Polled::Ready(result, op.held))
            }
            OpState::Orphaned => None,
        }
    }

    /// The next result of a multishot operation. None under `key`: its end was taken before.
    pub(crate) fn poll_next(&mut self, key: OpKey, waker: &Waker) -> Option<PolledNext> {
        let op = self.ops.get_mut(key)?;
        if let Some(result) = op.stream.as_mut().and_then(|stream| stream.results.pop_front()) {
            return Some(PolledNext::Item(result));
        }
        match self.poll(key, waker)? {
            Polled::Pending(known) => Some(PolledNext::Pending(known)),
            Polled::Ready(_, held) => Some(PolledNext::Ended(held)),
        }
    }

    /// Asks the kernel to end an operation. Its completion tells what became of it.
    pub(crate) fn cancel(&mut self, key: OpKey) {
        if self.ops.get(key).is_none_or(|op| matches!(op.state, OpState::Done(_))) {
            return;
        }
        let cancel = opcode::AsyncCancel::new(key.data().as_ffi()).build().user_data(CANCEL);
        // SAFETY: ASYNC_CANCEL points to no memory.
        if unsafe { self.port.push(&cancel) }.is_err() {
            self.unsent.push(cancel);
        }
    }

    /// Nobody waits for the operation any more. Returns what can be freed at once.
    pub(crate) fn abandon(&mut self, key: OpKey) -> Abandoned {
        let Some(op) = self.ops.get_mut(key) else { return (None, None) };
        if let OpState::Done(result) = op.state {
            return (self.ops.remove(key).map(|op| op.leftover(result)), None);
        }
        let waker = match mem::replace(&mut op.state, OpState::Orphaned) {
            OpState::InFlight(waker) => waker,
            _ => None,
        };
        if op.kind == OpKind::Cancelable {
            self.cancel(key);
        }
        (None, waker)
    }

    /// One enter, and what has completed: into the clients' batches and the outcome.
    #[inline]
    pub(crate) fn turn(&mut self, wait: Wait) -> Result<(), RingError> {
        if !self.unsent.is_empty() {
            self.send_again();
        }
        let turned = self.port.turn(wait);
        loop {
            self.batch.clear();
            self.batch.reserve(BATCH); // a client may have left a smaller one here
            let ended = self.port.reap(&mut self.batch);
            let is_last = self.batch.len() < BATCH;
            let taken =
                ended.is_some_and(|ended| self.externals.take_whole(&mut self.batch, ended, &mut self.outcome.wakers));
            if !taken {
                self.sort_batch();
            }
            if is_last {
                return turned;
            }
        }
    }

    /// Completions of several: each to whom it belongs.
    fn sort_batch(&mut self) {
        for index in 0..self.batch.len() {
            let completion = self.batch[index];
            match client_of(completion.user_data) {
                Some(client) => self.externals.complete(client, completion, &mut self.outcome.wakers),
                None => self.complete(completion),
            }
        }
    }

    /// There is something for [`Reactor::take_outcome`].
    #[inline]
    pub(crate) fn has_outcome(&self) -> bool {
        !(self.outcome.wakers.is_empty() && self.outcome.freed.is_empty())
    }

    /// What the turns have brought, to be emptied and given back.
    pub(crate) fn take_outcome(&mut self) -> Outcome {
        mem::take(&mut self.outcome)
    }

    /// Keeps the memory of an outcome that was emptied.
    pub(crate) fn give_back(&mut self, outcome: Outcome) {
        if !self.has_outcome() {
            self.outcome = outcome;
        }
    }

    fn complete(&mut self, completion: Completion) {
        match completion.user_data {
            WAKE => {
                let mut count = [0_u8; 8];
                let _ = rustix::io::read(&self.listener, &mut count);
                if !completion.more() {
                    self.arm_wake();
                }
            }
            CANCEL => {}
            _ => self.end(OpKey::from(KeyData::from_ffi(completion.user_data)), completion),
        }
    }

    fn end(&mut self, key: OpKey, completion: Completion) {
        let Some(op) = self.ops.get_mut(key).filter(|op| !matches!(op.state, OpState::Done(_))) else {
            self.strays += 1;
            return;
        };
        let mut is_full = false;
        if let Some(stream) = &mut op.stream {
            // Its cancellation is the end, and no result.
            if completion.more() || completion.result != -libc::ECANCELED {
                stream.results.push_back(completion.result);
            }
            if let OpState::InFlight(waker) = &mut op.state {
                self.outcome.wakers.extend(waker.take());
            }
            is_full = stream.results.len() >= STREAM_LIMIT && !mem::replace(&mut stream.is_cancelled, true);
        }
        if completion.more() {
            if is_full {
                self.cancel(key);
            }
            return; // the kernel may still write: only the last completion ends an operation
        }
        self.in_flight -= 1;
        match mem::replace(&mut op.state, OpState::Done(completion.result)) {
            OpState::InFlight(waker) => self.outcome.wakers.extend(waker),
            _ => self.outcome.freed.extend(self.ops.remove(key).map(|op| op.leftover(completion.result))),
        }
    }

    /// Cancels what can be cancelled and waits for the rest, without a deadline for ever. Returns how many had not ended by then, which are
    /// leaked, and what is left to wake and to drop.
    pub(crate) fn drain(mut self, deadline: Option<Instant>) -> (usize, Outcome) {
        for key in self.ops.keys().collect::<Vec<_>>() {
            let (held, waker) = self.abandon(key);
            self.outcome.freed.extend(held);
            self.outcome.dropped.extend(waker);
        }
        // What has ended already takes no time.
        let mut wait = Wait::No;
        while self.in_flight > 0 && self.turn(wait).is_ok() {
            wait = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => Wait::Forever,
                Some(left) if left.is_zero() => break,
                Some(left) => Wait::AtMost(left),
            };
        }
        (self.in_flight, self.take_outcome())
    }

    pub(crate) fn has_work(&mut self) -> bool {
        self.port.has_work()
    }

    /// Nothing waits to be submitted or reaped.
    pub(crate) fn has_nothing_to_do(&mut self) -> bool {
        self.unsent.is_empty() && !self.port.has_unsubmitted() && !self.port.has_work()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn strays(&self) -> u64 {
        self.strays
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        self.port.counts()
    }

    fn arm_wake(&mut self) {
        let fd = types::Fd(self.listener.as_raw_fd());
        let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build().user_data(WAKE);
        // SAFETY: POLL_ADD points to no memory.
        if unsafe { self.port.push(&poll) }.is_err() {
            self.unsent.push(poll);
        }
    }

    /// The ring was full and the kernel took nothing for the moment.
    #[cold]
    fn send_again(&mut self) {
        for entry in mem::take(&mut self.unsent) {
            // SAFETY: the wake's poll and cancellations point to no memory.
            if unsafe { self.port.push(&entry) }.is_err() {
                self.unsent.push(entry);
            }
        }
    }
}

fn unsupported(missing: MissingOpcode) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, missing)
}

impl Drop for Reactor {
    fn drop(&mut self) {
        if self.externals.in_flight() > 0 || self.in_flight > 0 {
            self.port.leave_registered(); // they end with the ring, or after it
        }
        if self.in_flight > 0 {
            // The ring closes, and the kernel goes on.
            LEAKED_OPERATIONS.fetch_add(self.in_flight, Ordering::Relaxed);
            mem::forget(mem::take(&mut self.ops));
        }
    }
}
