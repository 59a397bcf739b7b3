//! Thread-per-core executor over io_uring: tasks, timers, files, sockets, signals, and the parts below them: rings, wake-ups, placement,
//! memory, time, queues between threads.
//!
//! Knows nothing of ublk. A thread owns its [`LocalExecutor`], or its [`Ring`], by value and is the only one that touches it; other
//! threads reach it through wakers, a [`executor::RemoteHandle`] or an end of an [`spsc`] queue alone.
//!
//! Unsafe code lives in `ring`, `reactor` and `external` (kernel interface), `io` and `net` (what the kernel works on), `signal` (the
//! thread's mask), `memory` (mappings), `spsc` (slots that two threads take turns in) and `clock` (the time-stamp counter). The executor
//! itself has none.

#![deny(unsafe_code, missing_docs)]

#[macro_use]
mod assert_not_impl;
pub mod blocking;
pub mod channel;
#[allow(unsafe_code)]
pub mod clock;
pub mod executor;
#[allow(unsafe_code)]
pub mod external;
mod inbox;
#[allow(unsafe_code)]
pub mod io;
pub mod local;
#[allow(unsafe_code)]
pub mod memory;
pub mod mesh;
#[allow(unsafe_code)]
pub mod net;
pub mod placement;
#[allow(unsafe_code)]
mod reactor;
mod reply;
#[allow(unsafe_code)]
pub mod ring;
#[allow(unsafe_code)]
pub mod signal;
#[allow(unsafe_code)]
pub mod spsc;
mod sync;
pub mod wake;

pub use blocking::unblock;
pub use executor::{ExecutorError, JoinHandle, LocalExecutor, sleep, spawn_local, yield_if_needed, yield_now};
pub use memory::Mapping;
pub use reactor::leaked_operations;
pub use ring::{Completion, MissingOpcode, Ring, RingError, RingOptions, Wait};
pub use wake::Waker;

/// The examples of the README are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
