//! Faults between a ring and the kernel, for tests: what this thread's next system calls answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;

/// What becomes of one `io_uring_enter`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// It does not reach the kernel, and fails with this errno.
    Errno(i32),
    /// The kernel takes no more than this many entries.
    Short(u32),
}

thread_local! {
    static ENTERS: RefCell<VecDeque<Fault>> = const { RefCell::new(VecDeque::new()) };
    static SETUPS: RefCell<VecDeque<i32>> = const { RefCell::new(VecDeque::new()) };
}

/// The next calls of `io_uring_enter` of this thread, in this order.
pub(crate) fn on_enter(faults: impl IntoIterator<Item = Fault>) {
    ENTERS.with(|queue| queue.borrow_mut().extend(faults));
}

/// The next calls of `io_uring_setup` of this thread fail with these.
pub(crate) fn on_setup(errnos: impl IntoIterator<Item = i32>) {
    SETUPS.with(|queue| queue.borrow_mut().extend(errnos));
}

/// Faults that no call has met yet.
pub(crate) fn left() -> usize {
    ENTERS.with(|queue| queue.borrow().len()) + SETUPS.with(|queue| queue.borrow().len())
}

/// How many entries to submit and completions to wait for.
pub(super) fn enter(to_submit: u32, want: u32) -> io::Result<(u32, u32)> {
    match ENTERS.with(|queue| queue.borrow_mut().pop_front()) {
        Some(Fault::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
        // As the kernel does: it does not wait when it has not taken all.
        Some(Fault::Short(most)) if most < to_submit => Ok((most, 0)),
        _ => Ok((to_submit, want)),
    }
}

pub(super) fn setup() -> io::Result<()> {
    SETUPS.with(|queue| queue.borrow_mut().pop_front()).map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
}
