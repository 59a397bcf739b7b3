//! I/O of tasks: operations of the ring that own what they work on.
//!
//! Whoever drops a future of these gives up its result, never its memory: buffer and file stay with the ring until the kernel is done.

mod buffer;
mod file;
pub(crate) mod operation;

pub use buffer::{DmaBuffer, IoBuffer};
pub use file::DmaFile;
