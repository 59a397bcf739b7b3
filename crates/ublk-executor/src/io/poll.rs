//! Waits for a descriptor to become ready, once or again and again.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::BitOr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use io_uring::{opcode, squeue, types};

use super::operation::{Multishot, Operation, run_within, start, start_multishot};
use crate::reactor::OpKind;

/// What a descriptor is ready for: bits of poll(2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Events(u32);

impl Events {
    /// A read does not block: there are bytes, a connection, or the end.
    pub const READABLE: Events = Events(libc::POLLIN as u32);
    /// A write does not block.
    pub const WRITABLE: Events = Events(libc::POLLOUT as u32);
    /// Something exceptional: out-of-band bytes, a changed attribute of sysfs.
    pub const PRIORITY: Events = Events(libc::POLLPRI as u32);
    /// The peer will send no more.
    pub const READ_CLOSED: Events = Events(libc::POLLRDHUP as u32);
    /// An error waits. Reported without being asked for.
    pub const ERROR: Events = Events(libc::POLLERR as u32);
    /// The other end is closed. Reported without being asked for.
    pub const HANG_UP: Events = Events(libc::POLLHUP as u32);

    /// True when all of `events` are in it.
    pub fn contains(self, events: Events) -> bool {
        self.0 & events.0 == events.0
    }
}

impl BitOr for Events {
    type Output = Events;

    fn bitor(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Events({:#x})", self.0)
    }
}

fn entry(fd: &impl AsFd, events: Events, is_multi: bool) -> squeue::Entry {
    opcode::PollAdd::new(types::Fd(fd.as_fd().as_raw_fd()), events.0).multi(is_multi).build()
}

/// Ready when one of `events` is, with what is ready and the descriptor. It keeps the descriptor open meanwhile; to keep using it, hand
/// over an `Rc` or `Arc` of it.
///
/// Cancel-safe: dropping it cancels the wait, and takes nothing from the descriptor.
///
/// # Panics
/// Outside of an executor; when polled after its executor's end.
pub fn poll_once<F: AsFd + 'static>(fd: F, events: Events) -> PollOnce<F> {
    // SAFETY: POLL_ADD points to no memory; the operation owns the descriptor.
    PollOnce { operation: unsafe { start(entry(&fd, events, false), OpKind::Cancelable, fd) } }
}

/// [`poll_once`] for at most `limit`; starts when first polled.
///
/// Cancel-safe, as [`poll_once`].
///
/// # Errors
/// TimedOut when nothing was ready in time. Else the kernel's.
///
/// # Panics
/// As [`poll_once`].
pub async fn poll_once_within<F: AsFd + 'static>(fd: F, events: Events, limit: Duration) -> (io::Result<Events>, F) {
    // SAFETY: as in `poll_once`.
    let (result, fd) = unsafe { run_within(entry(&fd, events, false), OpKind::Cancelable, fd, limit) }.await;
    (result.map(Events), fd)
}

/// The future of [`poll_once`].
#[must_use = "dropping it cancels the wait"]
pub struct PollOnce<F: 'static> {
    operation: Operation<F>,
}

assert_not_impl!(PollOnce<OwnedFd>, Send);
assert_not_impl!(PollMany<OwnedFd>, Send);

impl<F> PollOnce<F> {
    /// Asks the kernel to end the wait, and is the same future still: soon ready with ECANCELED, or with what was ready before, and the
    /// descriptor.
    pub fn cancel(self) -> PollOnce<F> {
        PollOnce { operation: self.operation.cancel() }
    }
}

impl<F: 'static> Future for PollOnce<F> {
    type Output = (io::Result<Events>, F);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (result, fd) = ready!(Pin::new(&mut self.operation).poll(context));
        Poll::Ready((result.map(Events), fd))
    }
}

impl<F> fmt::Debug for PollOnce<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PollOnce")
    }
}

/// Waits for `events` again and again with one operation. Edges, not levels: what was ready and stays ready is told once, so read until
/// there is nothing more before the next wait.
///
/// # Panics
/// Outside of an executor.
pub fn poll_many<F: AsFd + 'static>(fd: F, events: Events) -> PollMany<F> {
    let fd = Rc::new(fd);
    let waits = arm(&fd, events);
    PollMany { fd, events, waits }
}

fn arm<F: AsFd + 'static>(fd: &Rc<F>, events: Events) -> Multishot {
    // SAFETY: as in `poll_once`. A result is a set of bits: nothing is lost with it.
    unsafe { start_multishot(entry(fd, events, true), |_| (), Rc::clone(fd)) }
}

/// See [`poll_many`]. Dropping it cancels the wait.
pub struct PollMany<F: 'static> {
    fd: Rc<F>,
    events: Events,
    waits: Multishot,
}

impl<F: AsFd + 'static> PollMany<F> {
    /// What became ready since the last one; each edge is told once, in order.
    ///
    /// Cancel-safe: what was not taken is told next time.
    ///
    /// # Errors
    /// The kernel's; the next call starts anew.
    ///
    /// # Panics
    /// Outside of its executor.
    pub async fn next(&mut self) -> io::Result<Events> {
        loop {
            match self.waits.next().await {
                Some(result) => return result.map(Events),
                // The kernel ends it when its completion queue overflows, and the reactor when too many results wait.
                None => self.waits = arm(&self.fd, self.events),
            }
        }
    }

    /// The descriptor.
    pub fn get_ref(&self) -> &F {
        &self.fd
    }
}

impl<F> fmt::Debug for PollMany<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PollMany").field("events", &self.events).finish_non_exhaustive()
    }
}
