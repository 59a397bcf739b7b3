//! Closes the ring of a queue that is left with tags, as for the next server, when the queue's thread has ended.
//!
//! A thread that closes such a ring and lives on may lose a request: on Linux 6.12 the driver takes the tags back in a thread of its own,
//! and a request that is on its way to the queue just then is handed to the thread that lives, after the driver has looked for those to take
//! back. Nobody answers it, and the device is never quiesced: docs/investigations/lost-requests. A thread that ends takes its tags back itself.

use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// A thread that is done with its queue may be doing something else, and the next server waits.
const LIMIT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(1);

/// Returns at once. `memory`, which the driver may fill or read until the ring is closed, is freed after it. Without `/proc`, or a thread to
/// wait in, the ring is closed at once, and the memory never freed.
pub(super) fn close_after_this_thread(ring: OwnedFd, memory: impl Send + 'static) {
    let memory = ManuallyDrop::new(memory);
    let Ok(this_thread) = std::fs::read_link("/proc/thread-self") else { return };
    let place = PathBuf::from("/proc").join(this_thread);
    let wait = move || {
        let until = Instant::now() + LIMIT;
        while place.exists() && Instant::now() < until {
            thread::sleep(LOOK);
        }
        drop(ring);
        drop(ManuallyDrop::into_inner(memory));
    };
    // A failure drops the closure, and the ring with it.
    let _ = thread::Builder::new().name("ublk-last-ring".into()).spawn(wait);
}
