//! What tasks of one executor share: no atomics, no locks, not `Send`.

mod channel;
mod gate;
mod rwlock;
mod semaphore;

pub use channel::{Receiver, ReceiverGone, Sender, Slot, channel};
pub use gate::{CloseGate, Gate, GateClosed, Pass};
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
pub use semaphore::{Acquire, Permit, Semaphore};
