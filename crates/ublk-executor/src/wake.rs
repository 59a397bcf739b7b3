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

#[cfg(loom)]
pub(crate) use bell::EventFd;
#[cfg(all(loom, test))]
pub(crate) use bell::Listener;

/// The signal of an inbox: an eventfd of its own, so that closing the inbox closes it.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct EventFd {
    own: OwnedFd,
    /// The eventfd of an owner that sleeps in another event loop.
    outer: Option<OwnedFd>,
}

#[cfg(not(loom))]
impl EventFd {
    /// # Errors
    /// EMFILE or ENFILE: no file descriptor left.
    pub(crate) fn new() -> std::io::Result<EventFd> {
        Ok(EventFd { own: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?, outer: None })
    }

    /// A second descriptor of it, for the thread that sleeps on it.
    pub(crate) fn listener(&self) -> std::io::Result<OwnedFd> {
        self.own.try_clone()
    }

    /// Raises this eventfd too from now on, instead of the last that was given.
    pub(crate) fn raise_too(&mut self, outer: OwnedFd) {
        self.outer = Some(outer);
    }
}

#[cfg(not(loom))]
impl crate::inbox::Signal for EventFd {
    /// The outer loop second: what it finds in the ring then is there already.
    fn raise(&self) {
        for fd in [Some(&self.own), self.outer.as_ref()].into_iter().flatten() {
            let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The eventfd of the models: the checker must know who waits for whom.
#[cfg(loom)]
#[allow(dead_code)] // all of it is for the models
mod bell {
    use std::os::fd::OwnedFd;

    use loom::sync::{Arc, Condvar, Mutex};

    #[derive(Debug, Default)]
    struct Bell {
        state: Mutex<State>,
        raised: Condvar,
    }

    #[derive(Debug, Default)]
    struct State {
        is_raised: bool,
        is_closed: bool,
    }

    #[derive(Debug)]
    pub(crate) struct EventFd(Arc<Bell>);

    /// The descriptor that the owner sleeps on.
    #[derive(Debug)]
    pub(crate) struct Listener(Arc<Bell>);

    impl EventFd {
        pub(crate) fn new() -> std::io::Result<EventFd> {
            Ok(EventFd(Arc::default()))
        }

        /// For the ring's poll, which no model has.
        pub(crate) fn listener(&self) -> std::io::Result<OwnedFd> {
            std::fs::File::open("/dev/null").map(OwnedFd::from)
        }

        /// No model has an outer loop.
        pub(crate) fn raise_too(&mut self, _: OwnedFd) {}

        pub(crate) fn sleeper(&self) -> Listener {
            Listener(Arc::clone(&self.0))
        }
    }

    impl crate::inbox::Signal for EventFd {
        fn raise(&self) {
            let mut state = self.0.state.lock().unwrap();
            assert!(!state.is_closed, "a descriptor that was given back is written to");
            state.is_raised = true;
            drop(state);
            self.0.raised.notify_one();
        }
    }

    impl Drop for EventFd {
        fn drop(&mut self) {
            self.0.state.lock().unwrap().is_closed = true;
        }
    }

    impl Listener {
        /// Sleeps until the signal is raised: for ever, if a wake was lost. The checker reports that as a deadlock.
        pub(crate) fn wait(&self) {
            let mut state = self.0.state.lock().unwrap();
            while !state.is_raised {
                state = self.0.raised.wait(state).unwrap();
            }
            state.is_raised = false;
        }

        pub(crate) fn is_closed(&self) -> bool {
            self.0.state.lock().unwrap().is_closed
        }
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
