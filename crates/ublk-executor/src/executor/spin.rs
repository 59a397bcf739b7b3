//! Looks for work a little longer before it sleeps: to wake a sleeper costs more than to be looked at, where wakes come close together.
//!
//! Adaptive: a look that finds something earns further ones, one that finds nothing costs one, and a sleep that ended within the limit (so
//! that a look would have found its end) earns one again. An idle executor, and one that timers wake now and then, so does not spin.

use std::cell::Cell;
use std::time::Duration;

use crate::clock;
use crate::ring::Wait;

/// Looks in vain until it gives up.
const MOST_LOOKS: u32 = 16;

#[derive(Debug)]
pub(super) struct Spin {
    /// 0 is off.
    limit: Duration,
    limit_ticks: u64,
    looks_left: Cell<u32>,
    found: Cell<u64>,
}

impl Spin {
    pub(super) fn new(limit: Duration, limit_ticks: u64) -> Spin {
        Spin { limit, limit_ticks, looks_left: Cell::new(0), found: Cell::new(0) }
    }

    /// It has looks left, and the sleep would be longer than one: nothing that has its time is late for it.
    #[inline]
    pub(super) fn may_look(&self, wait: Wait) -> bool {
        self.looks_left.get() > 0 && wait > Wait::AtMost(self.limit)
    }

    /// Looks for the limit at most. True: there is something, and no need to sleep.
    #[cold]
    pub(super) fn finds(&self, mut has_work: impl FnMut() -> bool) -> bool {
        let begin = clock::ticks();
        while clock::ticks().saturating_sub(begin) < self.limit_ticks {
            if has_work() {
                self.looks_left.set(MOST_LOOKS);
                self.found.set(self.found.get() + 1);
                return true;
            }
            std::hint::spin_loop();
        }
        self.looks_left.set(self.looks_left.get() - 1);
        false
    }

    /// The time, for [`Spin::wake`]; none when spinning is off.
    #[inline]
    pub(super) fn fall_asleep(&self) -> Option<u64> {
        (self.limit_ticks > 0).then(clock::ticks)
    }

    /// The executor has slept since then.
    pub(super) fn wake(&self, since: u64) {
        if clock::ticks().saturating_sub(since) < self.limit_ticks {
            self.looks_left.set((self.looks_left.get() + 1).min(MOST_LOOKS));
        }
    }

    /// Looks that found something.
    pub(super) fn found(&self) -> u64 {
        self.found.get()
    }
}
