//! One operation of the ring, as a future; two that are linked; one with many results, as a stream.

use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use io_uring::{opcode, squeue, types};

use crate::executor::{Core, current};
use crate::reactor::{Held, Link, OpKey, OpKind, Polled, PolledNext, Reactor};

/// Ready with the kernel's answer, and what the operation held. Dropping it leaves that to the ring.
#[must_use = "the result tells whether the operation was done"]
pub(crate) struct Operation<H: 'static> {
    core: Weak<Core>,
    state: State,
    held: PhantomData<H>,
}

enum State {
    InFlight(OpKey),
    Refused(io::Error, Held),
    Taken,
}

/// Starts an operation on the executor of this thread.
///
/// # Safety
/// The entry points to nothing but what `held` owns, at addresses that do not change when `held` moves.
///
/// # Panics
/// Outside of an executor.
pub(crate) unsafe fn start<H: 'static>(entry: squeue::Entry, kind: OpKind, held: H) -> Operation<H> {
    // SAFETY: the caller's promise; a box keeps its content in place.
    start_by(held, |reactor, held| unsafe { reactor.submit(entry, kind, held) })
}

/// [`start`] of an entry of 128 bytes.
///
/// # Safety
/// As there.
///
/// # Panics
/// Outside of an executor.
pub(crate) unsafe fn start_wide<H: 'static>(entry: squeue::Entry128, kind: OpKind, held: H) -> Operation<H> {
    // SAFETY: as in `start`.
    start_by(held, |reactor, held| unsafe { reactor.submit_wide(entry, kind, held) })
}

fn start_by<H: 'static>(
    held: H,
    submit: impl FnOnce(&mut Reactor, Held) -> Result<OpKey, (io::Error, Held)>,
) -> Operation<H> {
    let core = current().expect("an operation is started outside of an executor");
    let held: Held = Box::new(held);
    let submitted = core.with_reactor(|reactor| match reactor {
        Some(reactor) => submit(reactor, held),
        None => Err((has_ended(), held)),
    });
    let state = match submitted {
        Ok(key) => State::InFlight(key),
        Err((error, held)) => State::Refused(error, held),
    };
    Operation { core: Rc::downgrade(&core), state, held: PhantomData }
}

/// Like [`start`], for an operation whose answer is a new descriptor. Nobody else's if the future is dropped: then it is closed.
///
/// # Safety
/// As for [`start`]; and a result of the entry that is no error is a descriptor.
///
/// # Panics
/// Outside of an executor.
pub(crate) unsafe fn start_opening<H: 'static>(entry: squeue::Entry, kind: OpKind, held: H) -> Opening<H> {
    // SAFETY: the caller's promise.
    let operation = unsafe { start(entry, kind, held) };
    if let (State::InFlight(key), Some(core)) = (&operation.state, operation.core.upgrade()) {
        core.with_reactor(|reactor| reactor.map(|reactor| reactor.makes_descriptor(*key)));
    }
    Opening { operation }
}

/// See [`start_opening`].
#[must_use = "the result tells whether the operation was done"]
pub(crate) struct Opening<H: 'static> {
    operation: Operation<H>,
}

impl<H: 'static> Future for Opening<H> {
    type Output = (io::Result<OwnedFd>, H);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.operation).poll(context).map(|(result, held)| {
            // SAFETY: a descriptor, as whoever started the operation promised; the ring has given it up.
            (result.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor as i32) }), held)
        })
    }
}

/// Starts two operations, the second of which begins when the first has done all it was asked to. Else it ends with ECANCELED.
///
/// # Safety
/// As for [`start`], for each.
///
/// # Panics
/// Outside of an executor.
pub(crate) unsafe fn start_linked<A: 'static, B: 'static>(
    (first, first_kind, first_held): (squeue::Entry, OpKind, A),
    (second, second_kind, second_held): (squeue::Entry, OpKind, B),
) -> (Operation<A>, Operation<B>) {
    let core = current().expect("an operation is started outside of an executor");
    let links = vec![
        Link { entry: first, kind: first_kind, held: Box::new(first_held) },
        Link { entry: second, kind: second_kind, held: Box::new(second_held) },
    ];
    let submitted = core.with_reactor(|reactor| match reactor {
        // SAFETY: the caller's promise; a box keeps its content in place.
        Some(reactor) => unsafe { reactor.submit_chain(links) },
        None => Err((has_ended(), links.into_iter().map(|link| link.held).collect())),
    });
    let mut states: Vec<State> = match submitted {
        Ok(keys) => keys.into_iter().map(State::InFlight).collect(),
        Err((error, held)) => {
            // The first tells the reason; the second was cancelled by it.
            let cancelled = io::Error::from_raw_os_error(libc::ECANCELED);
            [error, cancelled].into_iter().zip(held).map(|(error, held)| State::Refused(error, held)).collect()
        }
    };
    let second = states.pop().expect("two operations have two states");
    let first = states.pop().expect("two operations have two states");
    let core = Rc::downgrade(&core);
    let first = Operation { core: core.clone(), state: first, held: PhantomData };
    (first, Operation { core, state: second, held: PhantomData })
}

/// [`start`] of an operation that the kernel cancels when it takes longer than `limit`: then its error is TimedOut. Disks are not
/// cancelled: their reads and writes end as they would.
///
/// # Safety
/// As there.
///
/// # Panics
/// Outside of an executor.
pub(crate) async unsafe fn run_within<H: 'static>(
    entry: squeue::Entry,
    kind: OpKind,
    held: H,
    limit: Duration,
) -> (io::Result<u32>, H) {
    let limit = Box::new(types::Timespec::from(limit));
    let timeout = opcode::LinkTimeout::new(&raw const *limit).build();
    // SAFETY: the caller's promise; the second points into the box that it holds. It ends with the first: no need to cancel it.
    let (operation, timeout) = unsafe { start_linked((entry, kind, held), (timeout, OpKind::Bounded, limit)) };
    let (result, held) = operation.await;
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
            let is_late = timeout.await.0.is_err_and(|error| error.raw_os_error() == Some(libc::ETIME));
            (Err(if is_late { io::ErrorKind::TimedOut.into() } else { error }), held)
        }
        result => (result, held),
    }
}

fn has_ended() -> io::Error {
    io::Error::from_raw_os_error(libc::ESHUTDOWN)
}

fn result_of(answer: i32) -> io::Result<u32> {
    u32::try_from(answer).map_err(|_| io::Error::from_raw_os_error(-answer))
}

impl<H> Operation<H> {
    /// Asks the kernel to end it, and is the same operation still: ECANCELED, or its result when it was faster, with what it held.
    pub(crate) fn cancel(self) -> Operation<H> {
        if let State::InFlight(key) = self.state
            && let Some(core) = self.core.upgrade()
        {
            core.with_reactor(|reactor| reactor.map(|reactor| reactor.cancel(key)));
        }
        self
    }
}

// Nothing in it is pinned: the key and the boxes may move.
impl<H> Unpin for Operation<H> {}

impl<H: 'static> Future for Operation<H> {
    type Output = (io::Result<u32>, H);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (result, held) = match std::mem::replace(&mut self.state, State::Taken) {
            State::InFlight(key) => {
                let core = self.core.upgrade().expect("an operation is polled after its executor's end");
                let polled =
                    core.with_reactor(|reactor| reactor.and_then(|reactor| reactor.poll(key, context.waker())));
                match polled.expect("an operation is polled after its executor's end") {
                    Polled::Pending(old) => {
                        self.state = State::InFlight(key);
                        drop(old);
                        return Poll::Pending;
                    }
                    Polled::Ready(answer, held) => (result_of(answer), held),
                }
            }
            State::Refused(error, held) => (Err(error), held),
            State::Taken => panic!("an operation was polled after it was ready"),
        };
        match held.downcast::<H>() {
            Ok(held) => Poll::Ready((result, *held)),
            Err(_) => unreachable!("an operation holds what it was started with"),
        }
    }
}

impl<H> Drop for Operation<H> {
    fn drop(&mut self) {
        if let State::InFlight(key) = self.state
            && let Some(core) = self.core.upgrade()
        {
            let left = core.with_reactor(|reactor| reactor.map(|reactor| reactor.abandon(key)));
            drop(left);
        }
    }
}

/// A multishot operation: a stream of results. Dropping it cancels it; what it held stays with the ring until its last completion, and
/// results that were not taken are discarded.
pub(crate) struct Multishot {
    core: Weak<Core>,
    state: StreamState,
}

enum StreamState {
    InFlight(OpKey),
    Refused(io::Error),
    Ended,
}

/// Starts a multishot operation on the executor of this thread. `discard` gets the results that nobody takes; it must not call the
/// executor.
///
/// # Safety
/// As for [`start`].
///
/// # Panics
/// Outside of an executor.
pub(crate) unsafe fn start_multishot<H: 'static>(entry: squeue::Entry, discard: fn(u32), held: H) -> Multishot {
    let core = current().expect("an operation is started outside of an executor");
    let held: Held = Box::new(held);
    let submitted = core.with_reactor(|reactor| match reactor {
        // SAFETY: the caller's promise; a box keeps its content in place.
        Some(reactor) => unsafe { reactor.submit_multishot(entry, discard, held) },
        None => Err((has_ended(), held)),
    });
    let state = match submitted {
        Ok(key) => StreamState::InFlight(key),
        Err((error, _)) => StreamState::Refused(error),
    };
    Multishot { core: Rc::downgrade(&core), state }
}

impl Multishot {
    /// The next result; None when there will be no more: the kernel has ended it, or the reactor, because too many results waited.
    ///
    /// Cancel-safe: a result that was not taken is the next one.
    ///
    /// # Panics
    /// After its executor's end.
    pub(crate) async fn next(&mut self) -> Option<io::Result<u32>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<u32>>> {
        let key = match std::mem::replace(&mut self.state, StreamState::Ended) {
            StreamState::InFlight(key) => key,
            StreamState::Refused(error) => return Poll::Ready(Some(Err(error))),
            StreamState::Ended => return Poll::Ready(None),
        };
        let core = self.core.upgrade().expect("an operation is polled after its executor's end");
        let polled = core.with_reactor(|reactor| reactor.and_then(|reactor| reactor.poll_next(key, context.waker())));
        match polled.expect("an operation is polled after its executor's end") {
            PolledNext::Pending(old) => {
                self.state = StreamState::InFlight(key);
                drop(old);
                Poll::Pending
            }
            PolledNext::Item(answer) => {
                self.state = StreamState::InFlight(key);
                Poll::Ready(Some(result_of(answer)))
            }
            PolledNext::Ended(held) => {
                drop(held);
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for Multishot {
    fn drop(&mut self) {
        if let StreamState::InFlight(key) = self.state
            && let Some(core) = self.core.upgrade()
        {
            let left = core.with_reactor(|reactor| reactor.map(|reactor| reactor.abandon(key)));
            drop(left);
        }
    }
}
