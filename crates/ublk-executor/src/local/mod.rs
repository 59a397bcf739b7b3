//! What tasks of one executor share: no atomics, no locks, not `Send`.

mod gate;
mod semaphore;

pub use gate::{CloseGate, Gate, GateClosed, Pass};
pub use semaphore::{Acquire, Permit, Semaphore};
