//! Numbers of one executor: plain cells of its own thread, so cheap that they are always on.

use std::cell::Cell;
use std::time::Duration;

use super::class::{Class, Delays};
use crate::clock;

#[derive(Debug, Default)]
pub(super) struct Counter(Cell<u64>);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.set(self.0.get().wrapping_add(count));
    }

    fn get(&self) -> u64 {
        self.0.get()
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) spawned: Counter,
    pub(super) finished: Counter,
    pub(super) panics: Counter,
    pub(super) polls: [Counter; 3],
    pub(super) run_ticks: [Counter; 3],
    pub(super) stalls: Counter,
    pub(super) last_stall: Cell<Option<&'static str>>,
    pub(super) sleeps: Counter,
    pub(super) remote_wakes: Counter,
}

/// Numbers of one task class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassStats {
    /// The class.
    pub class: Class,
    /// Polls of its tasks.
    pub polls: u64,
    /// Time that these took.
    pub run_time: Duration,
    /// Time that its tasks were runnable before these polls, in all; exact to one poll for each.
    pub queue_delay: Duration,
    /// The longest of these times.
    pub longest_queue_delay: Duration,
}

/// Numbers of one executor since it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Tasks that were spawned.
    pub spawned: u64,
    /// Tasks that have ended, in whatever way.
    pub finished: u64,
    /// Tasks that are there, parked ones included.
    pub tasks: usize,
    /// Panics in tasks and in their destructors.
    pub panics: u64,
    /// By class, in the order of [`Class::ALL`].
    pub classes: [ClassStats; 3],
    /// Polls that took longer than the stall limit.
    pub stalls: u64,
    /// Name of the last task that did, unless it has ended by that.
    pub last_stall: Option<&'static str>,
    /// Times that the executor had nothing to do.
    pub sleeps: u64,
    /// Times that a look before a sleep found something to do: see [`Builder::spin`](super::Builder::spin).
    pub spins: u64,
    /// Wakes from other threads.
    pub remote_wakes: u64,
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Completions, those of the executor's own wake-ups included.
    pub completions: u64,
    /// Operations under way.
    pub in_flight: usize,
    /// Completions of no known operation: always 0, unless the kernel is at fault.
    pub stray_completions: u64,
}

impl Counters {
    /// The ring's numbers are left 0.
    pub(super) fn read(&self, tasks: usize, delays: [Delays; 3]) -> Stats {
        let per_tick = clock::nanoseconds_per_tick();
        let time = |ticks: u64| Duration::from_nanos((ticks as f64 * per_tick) as u64);
        let class = |class: Class| ClassStats {
            class,
            polls: self.polls[class.index()].get(),
            run_time: time(self.run_ticks[class.index()].get()),
            queue_delay: time(delays[class.index()].sum_ticks),
            longest_queue_delay: time(delays[class.index()].longest_ticks),
        };
        Stats {
            spawned: self.spawned.get(),
            finished: self.finished.get(),
            tasks,
            panics: self.panics.get(),
            classes: Class::ALL.map(class),
            stalls: self.stalls.get(),
            last_stall: self.last_stall.get(),
            sleeps: self.sleeps.get(),
            spins: 0,
            remote_wakes: self.remote_wakes.get(),
            enters: 0,
            completions: 0,
            in_flight: 0,
            stray_completions: 0,
        }
    }
}
