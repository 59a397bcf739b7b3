//! A ublk server: block devices whose requests are answered in user space.
//!
//! ```text
//! control/  add, start, stop, delete, info: the control plane; may sleep, so never on a queue thread
//! queue/    fetch, dispatch, commit: one hardware queue on the thread that owns its ring       -> queue
//! target/   null, mem, file, stripe, mirror, nbd, fault: code that answers requests                   -> target
//! device    one device's life, over control
//! serve     queue threads for a native target
//! shared_memory  pages that a device's users share with it
//! ```
//!
//! Knows nothing of Node. Unsafe code lives in `queue::descriptors` and `queue::batch` (memory that the kernel shares), in the places that make
//! addresses for the kernel or hand them to it (`control::thread`, `queue::submit`, `queue::io`, `queue::native`, `device::sharing`, and those of
//! the targets that have memory of their own), and in `shared_memory`, which queues use without a lock.

#![deny(unsafe_code, missing_docs)]

pub mod control;
pub mod device;
pub mod error;
pub mod queue;
pub mod serve;
pub mod shared_memory;
pub mod target;

pub use control::{Control, Deletion, DeviceInfo, ZoneLimits, list};
pub use device::{
    BufferMode, CharDevice, DataPath, Device, DeviceSpec, FormerMemory, Preemption, QueueOptions, Recovery, Segments,
    Threads, ZeroCopyFallback,
};
pub use error::Error;
pub use queue::{Event, Queue, Request};
pub use serve::{QueueFailure, Served, spawn_target};
pub use shared_memory::SharedMemory;
pub use target::Target;
pub use ublk_executor::executor::RemoteHandle;
pub use ublk_executor::{Wait, Waker};
pub use ublk_uapi as uapi;

/// N of `/dev/ublkbN` and `/dev/ublkcN`.
pub type DeviceId = u32;
