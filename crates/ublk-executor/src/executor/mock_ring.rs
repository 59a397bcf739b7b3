//! A ring without a kernel, for the model checker and for Miri: what is pushed is done by the next turn, and it sleeps until the
//! executor's signal is raised.

use std::cell::Cell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
#[cfg(not(loom))]
use std::time::{Duration, Instant};

use io_uring::squeue;

use super::{LocalExecutor, Shares};
use crate::reactor::{AnyPort, CANCEL, Port, WAKE};
use crate::ring::{Completion, Kinds, Opcodes, RingError, Wait};
use crate::wake::EventFd;

pub(super) struct MockRing {
    pushed: Vec<u64>,
    done: Vec<Completion>,
    /// Operations stay under way while it is set.
    holds: Rc<Cell<bool>>,
    #[cfg(loom)]
    signal: crate::wake::Listener,
    #[cfg(not(loom))]
    signal: OwnedFd,
    enters: u64,
    completions: u64,
}

/// IORING_CQE_F_MORE in linux/io_uring.h.
const MORE: u32 = 2;

/// What an operation of the mock ring answers.
pub(super) const ANSWER: i32 = 7;

/// An executor on a mock ring, and what keeps its operations under way.
pub(super) fn executor() -> (LocalExecutor, Rc<Cell<bool>>) {
    let signal = EventFd::new().unwrap();
    let holds = Rc::new(Cell::new(false));
    let ring = MockRing {
        pushed: Vec::new(),
        done: Vec::new(),
        holds: Rc::clone(&holds),
        #[cfg(loom)]
        signal: signal.sleeper(),
        #[cfg(not(loom))]
        signal: signal.listener().unwrap(),
        enters: 0,
        completions: 0,
    };
    let builder = LocalExecutor::builder().shares(Shares::default());
    (builder.build_with(AnyPort::Other(Box::new(ring)), signal).unwrap(), holds)
}

impl MockRing {
    #[cfg(loom)]
    fn sleep(&mut self, wait: Wait) {
        assert!(matches!(wait, Wait::Forever), "models have no time");
        self.signal.wait();
    }

    #[cfg(not(loom))]
    fn sleep(&mut self, wait: Wait) {
        let limit = match wait {
            Wait::AtMost(limit) => limit,
            _ => Duration::from_secs(60), // a wake that is lost fails its test instead of hanging
        };
        let deadline = Instant::now() + limit;
        // Miri knows no poll; the descriptor does not block.
        let mut is_raised = rustix::io::read(&self.signal, &mut [0_u8; 8]).is_ok();
        while !is_raised && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(100));
            is_raised = rustix::io::read(&self.signal, &mut [0_u8; 8]).is_ok();
        }
        assert!(is_raised || wait != Wait::Forever, "a wake was lost");
        if is_raised {
            self.done.push(Completion { user_data: WAKE, result: 1, flags: MORE });
        }
    }
}

impl Port for MockRing {
    unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<(), RingError> {
        if ![WAKE, CANCEL].contains(&entry.get_user_data()) {
            self.pushed.push(entry.get_user_data());
        }
        Ok(())
    }

    unsafe fn push_chain(&mut self, entries: &[squeue::Entry]) -> Result<(), RingError> {
        // SAFETY: nothing of an entry is used but its number.
        entries.iter().try_for_each(|entry| unsafe { self.push(entry) })
    }

    unsafe fn push_wide(&mut self, _: &squeue::Entry128) -> Result<(), RingError> {
        Err(RingError::Narrow)
    }

    fn turn(&mut self, wait: Wait) -> Result<(), RingError> {
        self.enters += 1;
        if !self.holds.get() {
            let completion = |user_data| Completion { user_data, result: ANSWER, flags: 0 };
            self.done.extend(self.pushed.drain(..).map(completion));
        }
        if self.done.is_empty() && wait != Wait::No {
            self.sleep(wait);
        }
        Ok(())
    }

    fn reap(&mut self, batch: &mut Vec<Completion>) -> Option<usize> {
        let room = batch.capacity() - batch.len();
        let taken = self.done.len().min(room);
        self.completions += taken as u64;
        batch.extend(self.done.drain(..taken));
        Kinds::of(batch).ended_of_one()
    }

    fn has_work(&mut self) -> bool {
        !self.done.is_empty()
    }

    fn has_unsubmitted(&mut self) -> bool {
        false
    }

    fn is_quiet(&mut self) -> bool {
        self.pushed.is_empty() && self.done.is_empty()
    }

    fn register_files(&mut self, _: &[BorrowedFd<'_>]) -> Result<(), RingError> {
        Err(nothing_registers())
    }

    fn register_buffer_table(&mut self, _: u32) -> Result<(), RingError> {
        Err(nothing_registers())
    }

    unsafe fn register_buffer_ring(&mut self, _: u64, _: u16) -> Result<(), RingError> {
        Err(nothing_registers())
    }

    fn register_file_table(&mut self, _: u32) -> Result<(), RingError> {
        Err(nothing_registers())
    }

    fn set_file(&mut self, _: u32, _: Option<BorrowedFd<'_>>) -> Result<(), RingError> {
        Err(nothing_registers())
    }

    unsafe fn set_buffer(&mut self, _: u32, _: *mut u8, _: usize) -> Result<(), RingError> {
        Err(nothing_registers())
    }

    fn register_eventfd(&mut self, _: BorrowedFd<'_>) -> Result<(), RingError> {
        Err(nothing_registers())
    }

    fn second_fd(&self) -> Result<OwnedFd, RingError> {
        Err(nothing_registers())
    }

    fn leave_registered(&mut self) {}

    fn counts(&self) -> (u64, u64) {
        (self.enters, self.completions)
    }

    fn opcodes(&self) -> Opcodes {
        Opcodes::ALL
    }
}

/// As from a kernel without the call.
fn nothing_registers() -> RingError {
    RingError::Kernel { call: "io_uring_register", source: std::io::ErrorKind::Unsupported.into() }
}
