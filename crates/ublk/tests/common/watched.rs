//! A target whose requests are looked at on their way: how many came from shared memory, and how long the longest was.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use ublk::target::{BufferAddress, Geometry, Io, Progress, QueueTarget, Request};
use ublk::uapi::IoFlags;
use ublk::{BufferMode, CharDevice, Error, Target};

/// What was seen.
#[derive(Default)]
pub struct Seen {
    shared: AtomicUsize,
    longest_bytes: AtomicU32,
}

impl Seen {
    /// Requests whose data was in shared memory, since it was asked last.
    pub fn take_shared(&self) -> usize {
        self.shared.swap(0, Ordering::Relaxed)
    }

    /// Bytes of the longest read or write, since it was asked last.
    pub fn take_longest(&self) -> u32 {
        self.longest_bytes.swap(0, Ordering::Relaxed)
    }
}

/// The target with somebody who looks.
pub fn watched(target: Arc<dyn Target>) -> (Arc<dyn Target>, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    (Arc::new(Watched(target, Arc::clone(&seen))), seen)
}

struct Watched(Arc<dyn Target>, Arc<Seen>);

struct WatchedQueue(Box<dyn QueueTarget>, Arc<Seen>);

impl Target for Watched {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn buffers(&self) -> Vec<BufferMode> {
        self.0.buffers()
    }
    fn serves_zero_copy(&self) -> bool {
        self.0.serves_zero_copy()
    }
    fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.0.files()
    }
    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        Ok(Box::new(WatchedQueue(self.0.queue(device, tags)?, Arc::clone(&self.1))))
    }
}

impl QueueTarget for WatchedQueue {
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        self.1.shared.fetch_add(usize::from(request.flags.contains(IoFlags::SHMEM_ZC)), Ordering::Relaxed);
        if request.has_data() {
            self.1.longest_bytes.fetch_max(request.len_bytes, Ordering::Relaxed);
        }
        self.0.start(tag, request, io)
    }
    fn resume(&mut self, tag: u16, request: &Request, part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        self.0.resume(tag, request, part, result, io)
    }
    fn place(&mut self, request: &Request) -> BufferAddress {
        self.0.place(request)
    }
}
