//! Operations of a client that keeps its own books: a driver's queue with hundreds of commands, for which a future and a box each would
//! cost too much.
//!
//! The client pushes entries into the executor's ring and takes their completions in batches. The executor sleeps in that ring, wakes the
//! client's task when there is a batch, and does nothing else: what an operation points to, and how it ends, is the client's. So unlike
//! with operations of tasks, the executor's end does not wait for them: they end with the ring, or with the driver.
//!
//! `user_data`: 32 bits of the client's in the upper half; below them the client's number, where no other operation has one, from one place on
//! for operations that are counted, and from another on for those whose success is not told.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::squeue;

use crate::LocalExecutor;
use crate::executor::Core;
use crate::reactor::Reactor;
use crate::ring::{Completion, RingError, duplicate};

/// Lower half of the first client's numbers for operations without a word of success; [`u32::MAX`] is no client's.
const FIRST_SILENT: u32 = u32::MAX - MOST_CLIENTS as u32;

/// Lower half of the first client's numbers for all others.
const FIRST_CLIENT: u32 = FIRST_SILENT - MOST_CLIENTS as u32;

/// Clients of one executor at a time.
const MOST_CLIENTS: usize = 255;

/// Whom a completion is for.
#[derive(Clone, Copy)]
pub(crate) struct Recipient {
    client: usize,
    /// It was counted when it was pushed.
    is_counted: bool,
}

/// The client that a completion is for; none if it is for an operation of a task.
#[inline]
pub(crate) fn client_of(user_data: u64) -> Option<Recipient> {
    match user_data as u32 {
        ..FIRST_CLIENT | u32::MAX => None,
        low @ FIRST_CLIENT..FIRST_SILENT => Some(Recipient { client: (low - FIRST_CLIENT) as usize, is_counted: true }),
        low => Some(Recipient { client: (low - FIRST_SILENT) as usize, is_counted: false }),
    }
}

/// The reactor's part: the batches of all clients.
#[derive(Debug, Default)]
pub(crate) struct Externals {
    clients: Vec<Client>,
}

#[derive(Debug, Default)]
struct Client {
    is_there: bool,
    in_flight: Rc<Cell<usize>>,
    batch: Vec<Completion>,
    waker: Option<Waker>,
}

impl Externals {
    /// Its number, and the count of its operations under way.
    fn add(&mut self, batch: usize) -> Option<(usize, Rc<Cell<usize>>)> {
        // A place whose operations have not ended is not given to the next one, who would get their completions.
        let free = self.clients.iter().position(|client| !client.is_there && client.in_flight.get() == 0);
        let index = free.unwrap_or(self.clients.len());
        if index == MOST_CLIENTS {
            return None;
        }
        let client = Client { is_there: true, batch: Vec::with_capacity(batch), ..Client::default() };
        let in_flight = Rc::clone(&client.in_flight);
        match self.clients.get_mut(index) {
            Some(place) => *place = client,
            None => self.clients.push(client),
        }
        Some((index, in_flight))
    }

    /// The common case, that a batch of one kind, in which so many operations have ended, is for a client which has taken its last one: exchanges
    /// the vectors. False, and nothing is done: it is another case.
    #[inline]
    pub(crate) fn take_whole(&mut self, batch: &mut Vec<Completion>, ended: usize, wakers: &mut Vec<Waker>) -> bool {
        let Some(recipient) = batch.first().and_then(|completion| client_of(completion.user_data)) else {
            return false;
        };
        let client = self.clients.get_mut(recipient.client);
        let Some(client) = client.filter(|client| client.is_there && client.batch.is_empty()) else { return false };
        if recipient.is_counted {
            client.in_flight.set(client.in_flight.get().saturating_sub(ended));
        }
        mem::swap(&mut client.batch, batch);
        if client.waker.is_some() {
            wakers.extend(client.waker.take());
        }
        true
    }

    #[inline]
    pub(crate) fn complete(&mut self, to: Recipient, completion: Completion, wakers: &mut Vec<Waker>) {
        let Some(client) = self.clients.get_mut(to.client) else { return };
        let has_ended = to.is_counted && !completion.more();
        client.in_flight.set(client.in_flight.get().saturating_sub(usize::from(has_ended)));
        if client.is_there {
            client.batch.push(completion);
            wakers.extend(client.waker.take());
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.clients.iter().map(|client| client.in_flight.get()).sum()
    }
}

fn has_ended() -> RingError {
    RingError::Kernel { call: "io_uring_enter", source: std::io::Error::from_raw_os_error(libc::ESHUTDOWN) }
}

impl Completion {
    /// The `data` that was given to [`External::push`].
    #[inline]
    pub fn data(&self) -> u32 {
        (self.user_data >> 32) as u32
    }
}

/// One client of an executor's ring. Not `Send`.
///
/// Dropping it leaves its operations to the kernel; their completions are thrown away.
pub struct External {
    core: Rc<Core>,
    index: usize,
    in_flight: Rc<Cell<usize>>,
}

assert_not_impl!(External, Send);
assert_not_impl!(External, Clone);

impl External {
    /// A client of `executor`, for batches of about `batch` completions: more of them allocate.
    ///
    /// # Errors
    /// ENOSPC, as [`RingError::Kernel`]: 255 clients are there already.
    pub fn new(executor: &LocalExecutor, batch: usize) -> Result<External, RingError> {
        let core = Rc::clone(&executor.core);
        let added = core.with_reactor(|reactor| reactor.map(|reactor| reactor.externals.add(batch)));
        let full = || std::io::Error::from_raw_os_error(libc::ENOSPC);
        match added {
            Some(Some((index, in_flight))) => Ok(External { core, index, in_flight }),
            Some(None) => Err(RingError::Kernel { call: "a client of the ring", source: full() }),
            None => Err(has_ended()),
        }
    }

    /// Queues an operation for the executor's next turn. Its completion comes with `data`: the entry's `user_data` is made here, in place.
    ///
    /// # Safety
    /// What the entry points to (buffers, paths) stays valid, and unaliased by Rust references, until its last completion was taken, or the
    /// driver that works on it is known to be done with it. The executor's end does not wait for it.
    ///
    /// # Errors
    /// The kernel's answer when a full queue could not be submitted; ESHUTDOWN when the executor has ended.
    #[inline(always)]
    pub unsafe fn push(&self, entry: &mut squeue::Entry, data: u32) -> Result<(), RingError> {
        entry.set_user_data(u64::from(data) << 32 | u64::from(FIRST_CLIENT + self.index as u32));
        self.with_reactor(|reactor| {
            // SAFETY: the caller's promise.
            unsafe { reactor.port.push(entry) }
        })?;
        self.in_flight.set(self.in_flight.get() + 1);
        Ok(())
    }

    /// [`External::push`] of an operation that completes as soon as it is submitted, and whose completion can wait until something else comes:
    /// it alone ends no wait of the next turn. The failure of such an operation is seen no sooner: give that turn a time.
    ///
    /// # Safety
    /// As there.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub unsafe fn push_prompt(&self, entry: &mut squeue::Entry, data: u32) -> Result<(), RingError> {
        // SAFETY: the caller's promise.
        unsafe { self.push(entry, data)? };
        self.with_reactor(|reactor| {
            reactor.port.expect_prompt();
            Ok(())
        })
    }

    /// [`External::push`] of an operation whose success is not told: only its failure has a completion.
    ///
    /// # Safety
    /// As there, with the end of the operation itself in place of its completion.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub unsafe fn push_silent(&self, entry: squeue::Entry, data: u32) -> Result<(), RingError> {
        let mut entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
        entry.set_user_data(u64::from(data) << 32 | u64::from(FIRST_SILENT + self.index as u32));
        // SAFETY: the caller's promise.
        self.with_reactor(|reactor| unsafe { reactor.port.push(&entry) })
    }

    /// Exchanges `batch`, which is emptied, for the completions so far. False: there are none. Nothing is allocated once all
    /// vectors that go around have grown.
    #[inline]
    pub fn take(&self, batch: &mut Vec<Completion>) -> bool {
        batch.clear();
        self.core.with_reactor(|reactor| {
            if let Some(client) = reactor.and_then(|reactor| reactor.externals.clients.get_mut(self.index)) {
                mem::swap(&mut client.batch, batch);
            }
        });
        !batch.is_empty()
    }

    /// [`External::take`] that waits for one completion at least. Cancel-safe: what was not taken stays.
    pub async fn next(&self, batch: &mut Vec<Completion>) {
        poll_fn(|context| self.poll_next(batch, context)).await;
    }

    /// [`External::next`] for futures that are written by hand: `Pending` keeps the waker for the next completion.
    #[inline]
    pub fn poll_next(&self, batch: &mut Vec<Completion>, context: &Context<'_>) -> Poll<()> {
        if self.take(batch) {
            return Poll::Ready(());
        }
        let old = self.core.with_reactor(|reactor| {
            let client = reactor.and_then(|reactor| reactor.externals.clients.get_mut(self.index))?;
            match &client.waker {
                Some(known) if known.will_wake(context.waker()) => None,
                _ => client.waker.replace(context.waker().clone()),
            }
        });
        drop(old); // outside of the loan: a waker of somebody else's may do anything when it goes
        Poll::Pending
    }

    /// Makes the ring's table of files, which operations name by their index (`types::Fixed`). One table for an executor.
    ///
    /// # Errors
    /// The kernel's answer: EBUSY when there is one, EMFILE.
    pub fn register_files(&self, files: &[BorrowedFd<'_>]) -> Result<(), RingError> {
        self.with_reactor(|reactor| reactor.port.register_files(files))
    }

    /// Makes an empty table of `count` fixed buffers, which drivers fill. One table for an executor.
    ///
    /// # Errors
    /// The kernel's answer: EBUSY when there is one.
    pub fn register_buffer_table(&self, count: u32) -> Result<(), RingError> {
        self.with_reactor(|reactor| reactor.port.register_buffer_table(count))
    }

    /// Makes a group of provided buffers with one entry, in the page at `ring`: see [`crate::ring::Ring::register_buffer_ring`].
    ///
    /// # Safety
    /// As there.
    ///
    /// # Errors
    /// As there.
    pub unsafe fn register_buffer_ring(&self, ring: u64, group: u16) -> Result<(), RingError> {
        // SAFETY: the caller's promise.
        self.with_reactor(|reactor| unsafe { reactor.port.register_buffer_ring(ring, group) })
    }

    /// Signals `fd`, an eventfd, whenever a completion waits in the ring, or somebody wakes the executor: for owners that sleep in another
    /// event loop. A turn that leaves work behind raises no new signal.
    ///
    /// Linux 6.12 and 6.18 signal only once what a poll has found, and operations on sockets and pipes wait by polls; then the signals of all
    /// else are lost too. Wakes do not depend on it: they raise `fd` by themselves. See docs/investigations/lost-signals.
    ///
    /// # Errors
    /// The kernel's answer; EMFILE.
    pub fn register_eventfd(&self, fd: BorrowedFd<'_>) -> Result<(), RingError> {
        let outer = duplicate(fd)?;
        self.with_reactor(|reactor| reactor.port.register_eventfd(fd))?;
        self.core.inbox.change_signal(|signal| signal.raise_too(outer));
        Ok(())
    }

    /// A second descriptor of the executor's ring, which so outlives the executor. What is under way in it then, nobody hears of.
    ///
    /// # Errors
    /// EMFILE; EOPNOTSUPP on kernels without DEFER_TASKRUN (before 6.1).
    pub fn second_fd(&self) -> Result<OwnedFd, RingError> {
        self.with_reactor(|reactor| reactor.port.second_fd())
    }

    /// True when nothing waits in the ring to be submitted or reaped, nothing is in the batch, and nothing can complete before the next
    /// turn. Always false on kernels without DEFER_TASKRUN (before 6.1).
    pub fn is_quiet(&self) -> bool {
        self.core.with_reactor(|reactor| {
            reactor.is_some_and(|reactor| {
                reactor.port.is_quiet()
                    && reactor.externals.clients.get(self.index).is_some_and(|client| client.batch.is_empty())
            })
        })
    }

    /// `io_uring_enter` calls and completions of the whole executor so far.
    #[inline]
    pub fn counts(&self) -> (u64, u64) {
        self.core.with_reactor(|reactor| reactor.map_or((0, 0), |reactor| reactor.counts()))
    }

    #[inline(always)] // pushing is short
    fn with_reactor<R>(&self, act: impl FnOnce(&mut Reactor) -> Result<R, RingError>) -> Result<R, RingError> {
        self.core.with_reactor(|reactor| reactor.map_or_else(|| Err(has_ended()), act))
    }
}

impl Drop for External {
    fn drop(&mut self) {
        let waker = self.core.with_reactor(|reactor| {
            let client = reactor?.externals.clients.get_mut(self.index)?;
            client.is_there = false;
            client.waker.take()
        });
        drop(waker);
    }
}

impl fmt::Debug for External {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("External").field("number", &self.index).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ring::Kinds;

    fn completion(client: usize, flags: u32) -> Completion {
        Completion { user_data: u64::from(FIRST_CLIENT) + client as u64, result: 1, flags }
    }

    #[test]
    fn a_completion_that_is_not_the_last_leaves_its_operation_under_way() {
        const MORE: u32 = 2; // IORING_CQE_F_MORE in linux/io_uring.h
        let mut externals = Externals::default();
        let (index, in_flight) = externals.add(4).unwrap();
        in_flight.set(2);
        let mut batch = vec![completion(index, MORE), completion(index, 0)];
        let ended = Kinds::of(&batch).ended_of_one();
        assert_eq!(ended, Some(1));
        assert!(externals.take_whole(&mut batch, 1, &mut Vec::new()));
        assert_eq!((externals.in_flight(), externals.clients[index].batch.len()), (1, 2));
    }

    #[test]
    fn the_failure_of_a_silent_operation_leaves_the_others_under_way() {
        let mut externals = Externals::default();
        let (index, in_flight) = externals.add(4).unwrap();
        in_flight.set(1);
        let failure = Completion { user_data: u64::from(FIRST_SILENT) + index as u64, result: -libc::EBUSY, flags: 0 };
        assert!(externals.take_whole(&mut vec![failure], 1, &mut Vec::new()));
        assert_eq!((externals.in_flight(), externals.clients[index].batch.len()), (1, 1));
        externals.complete(client_of(failure.user_data).unwrap(), failure, &mut Vec::new());
        assert_eq!((externals.in_flight(), externals.clients[index].batch.len()), (1, 2));
        externals.complete(client_of(completion(index, 0).user_data).unwrap(), completion(index, 0), &mut Vec::new());
        assert_eq!(externals.in_flight(), 0);
        assert_eq!(Kinds::of(&[failure, completion(index, 0)]).ended_of_one(), None);
    }

    #[test]
    fn completions_of_two_clients_are_not_of_one_kind() {
        assert_eq!(Kinds::of(&[completion(0, 0), completion(1, 0)]).ended_of_one(), None);
        assert_eq!(Kinds::of(&[]).ended_of_one(), None);
    }
}
