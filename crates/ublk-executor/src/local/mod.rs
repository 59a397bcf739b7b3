//! What tasks of one executor share: no atomics, no locks, not `Send`.

mod channel;
mod gate;
mod rwlock;
mod semaphore;

pub use channel::{Receiver, ReceiverGone, Sender, Slot, channel};
pub use gate::{CloseGate, Gate, GateClosed, Pass};
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
pub use semaphore::{Acquire, Permit, Semaphore};

// They are shared by `Rc`, and wake without a lock.
assert_not_impl!(Semaphore, Send);
assert_not_impl!(Semaphore, Sync);
assert_not_impl!(Acquire, Send);
assert_not_impl!(Permit, Send);
assert_not_impl!(Permit, Clone);
assert_not_impl!(Gate, Send);
assert_not_impl!(Gate, Sync);
assert_not_impl!(Pass, Send);
assert_not_impl!(Pass, Clone);
assert_not_impl!(CloseGate, Send);
