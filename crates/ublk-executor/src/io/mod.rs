//! I/O of tasks: operations of the ring that own what they work on.
//!
//! Whoever drops a future of these gives up its result, never its memory: buffer and file stay with the ring until the kernel is done.

mod buffer;
mod buffered;
mod command;
mod directory;
mod dma;
mod fixed;
mod handle;
mod metadata;
mod open;
pub(crate) mod operation;
#[cfg(all(test, not(loom)))]
mod operation_tests;
mod part;
mod poll;
mod transfer;

pub use buffer::{DmaBuffer, IoBuffer};
pub use buffered::BufferedFile;
pub use command::{uring_cmd16, uring_cmd80};
pub use directory::{Directory, Entry};
pub use dma::DmaFile;
pub use fixed::{DmaMemory, FixedBuffer, NoSlot};
pub use metadata::{FileKind, Metadata};
pub use open::OpenOptions;
pub use part::Part;
pub use poll::{Events, PollMany, PollOnce, poll_many, poll_once, poll_once_within};

// What an operation may hold is of one thread; a buffer is of one owner, and of any thread while no operation has it.
assert_not_impl!(DmaFile, Send);
assert_not_impl!(DmaFile, Sync);
assert_not_impl!(BufferedFile, Send);
assert_not_impl!(Directory, Send);
assert_not_impl!(FixedBuffer, Send);
assert_not_impl!(FixedBuffer, Clone);
assert_not_impl!(PollMany<std::fs::File>, Send);
assert_not_impl!(PollOnce<std::fs::File>, Send);
assert_not_impl!(DmaBuffer, Clone);
assert_not_impl!(operation::Operation<DmaBuffer>, Send);
assert_not_impl!(operation::Operation<DmaBuffer>, Sync);
assert_not_impl!(operation::Operation<DmaBuffer>, Clone);
