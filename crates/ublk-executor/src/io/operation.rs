//! One operation of the ring, as a future.

use std::any::Any;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use io_uring::squeue;

use crate::executor::{Core, current};
use crate::reactor::{OpKey, OpKind, Polled};
use crate::ring::RingError;

/// Ready with the kernel's answer, and what the operation held. Dropping it leaves that to the ring.
#[must_use = "the result tells whether the operation was done"]
pub(crate) struct Operation<H: 'static> {
    core: Weak<Core>,
    state: State,
    held: PhantomData<H>,
}

enum State {
    InFlight(OpKey),
    Refused(io::Error, Box<dyn Any>),
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
    let core = current().expect("an operation is started outside of an executor");
    let held: Box<dyn Any> = Box::new(held);
    let submitted = core.with_reactor(|reactor| match reactor {
        // SAFETY: the caller's promise; a box keeps its content in place.
        Some(reactor) => unsafe { reactor.submit(entry, kind, held) }.map_err(|(error, held)| (errno_of(error), held)),
        None => Err((io::Error::from_raw_os_error(libc::ESHUTDOWN), held)),
    });
    let state = match submitted {
        Ok(key) => State::InFlight(key),
        Err((error, held)) => State::Refused(error, held),
    };
    Operation { core: Rc::downgrade(&core), state, held: PhantomData }
}

fn errno_of(error: RingError) -> io::Error {
    error.errno().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
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
                    Polled::Ready(answer, held) => {
                        (u32::try_from(answer).map_err(|_| io::Error::from_raw_os_error(-answer)), held)
                    }
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
