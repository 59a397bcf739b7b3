//! Thread-per-core io_uring building blocks: rings, wake-ups, placement, memory, time.
//!
//! Knows nothing of ublk. A thread owns its ring by value and is the only one that touches it; other threads reach it
//! through a [`Waker`] alone.
//!
//! Unsafe code lives in `ring` (kernel interface), `memory` (mappings) and `clock` (the time-stamp counter).

#![deny(unsafe_code, missing_docs)]

#[allow(unsafe_code)]
pub mod clock;
#[allow(unsafe_code)]
pub mod memory;
pub mod placement;
#[allow(unsafe_code)]
pub mod ring;
pub mod wake;

pub use memory::Mapping;
pub use ring::{Completion, Ring, RingError, RingOptions, Wait};
pub use wake::Waker;
