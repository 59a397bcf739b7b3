//! Wakes a thread that sleeps in its ring.
//!
//! A [`Waker`] is an eventfd. The ring's owner keeps one poll armed on it; `wake` from any thread completes that poll.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// Handle that wakes one ring's owner. Cheap to clone; outlives the ring without harm.
#[derive(Clone, Debug)]
pub struct Waker {
    fd: Arc<OwnedFd>,
}

impl Waker {
    /// Makes the eventfd.
    ///
    /// # Errors
    /// EMFILE or ENFILE: no file descriptor left.
    pub fn new() -> std::io::Result<Waker> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker { fd: Arc::new(fd) })
    }

    /// Wakes the owner. Waking twice before it looks is waking once.
    pub fn wake(&self) {
        // The counter can only be full after 2^64 - 2 wakes that nobody took: then it is readable anyway.
        let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }

    /// Takes all wakes so far, so that the next poll waits for a new one.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        let _ = rustix::io::read(&self.fd, &mut count);
    }
}

/// The signal of an inbox: an eventfd of its own, so that closing the inbox closes it.
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    /// # Errors
    /// EMFILE or ENFILE: no file descriptor left.
    pub(crate) fn new() -> std::io::Result<EventFd> {
        Ok(EventFd(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// A second descriptor of it, for the thread that sleeps on it.
    pub(crate) fn listener(&self) -> std::io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

impl crate::inbox::Signal for EventFd {
    fn raise(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn is_readable(waker: &Waker) -> bool {
        let mut fds = [PollFd::new(waker, PollFlags::IN)];
        poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn wakes_are_seen_once_and_cleared() {
        let waker = Waker::new().unwrap();
        assert!(!is_readable(&waker));
        waker.wake();
        waker.clone().wake();
        assert!(is_readable(&waker));
        waker.clear();
        assert!(!is_readable(&waker));
    }
}
