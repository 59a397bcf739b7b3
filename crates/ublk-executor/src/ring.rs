//! One io_uring, owned by one thread.
//!
//! Thread: the one that made it. SINGLE_ISSUER makes the kernel refuse every other, and [`Ring`] is not `Send`.
//! Invariant: completions appear only inside [`Ring::turn`] (DEFER_TASKRUN), so whoever waits must take turns.
//! Closing a ring does not stop its I/O: the owner drains what reads or writes its memory before it drops the ring.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::{IoUring, cqueue, squeue};

const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
/// Linux 6.15: a waiting server is idle, not in I/O wait; without it `top` shows 100 % iowait per queue.
const ENTER_NO_IOWAIT: u32 = 1 << 7;

/// Why a ring could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// EPERM or ENOSYS from io_uring_setup: the sysctl `kernel.io_uring_disabled`, or seccomp (containers).
    #[error("io_uring is switched off here ({0})")]
    Disabled(std::io::Error),
    /// ENOMEM: on kernels that charge rings to RLIMIT_MEMLOCK, or no memory at all.
    #[error("no memory for an io_uring of {entries} entries ({source})")]
    NoMemory {
        /// Submission entries asked for.
        entries: u32,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Any other kernel answer.
    #[error("{call}: {source}")]
    Kernel {
        /// System call, and its operation where it has several.
        call: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl RingError {
    /// The errno below, positive.
    pub fn errno(&self) -> Option<i32> {
        match self {
            RingError::Disabled(source) | RingError::NoMemory { source, .. } | RingError::Kernel { source, .. } => {
                source.raw_os_error()
            }
        }
    }
}

/// Size of a ring.
#[derive(Debug, Clone, Copy)]
pub struct RingOptions {
    /// Submission entries; rounded up to a power of two by the kernel.
    pub submissions: u32,
    /// Completion entries: at least the operations that can be open at once.
    pub completions: u32,
}

/// How long [`Ring::turn`] may wait. The shorter wait is the lesser one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// Not at all.
    No,
    /// For one completion or this long.
    AtMost(Duration),
    /// For one completion.
    Forever,
}

/// One completion: 16 bytes copied out of the ring.
#[derive(Debug, Clone, Copy)]
pub struct Completion {
    /// As given to the operation.
    pub user_data: u64,
    /// Result, or -errno.
    pub result: i32,
    /// A multishot operation goes on.
    pub more: bool,
}

/// One io_uring and the numbers about its use. `S` is the submission entry: 64 bytes, or 128 for ublk control commands.
pub struct Ring<S: squeue::EntryMarker = squeue::Entry> {
    io: IoUring<S, cqueue::Entry>,
    enter_fd: libc::c_int,
    enter_flags: u32,
    enters: u64,
    completions: u64,
    /// Completions appear in turns only (DEFER_TASKRUN).
    is_deferred: bool,
    /// Unregister before closing.
    gives_back: bool,
    not_send: PhantomData<*const ()>,
}

impl<S: squeue::EntryMarker> Ring<S> {
    /// Makes a ring with the strongest set-up flags that this kernel takes.
    ///
    /// # Errors
    /// [`RingError`]: io_uring disabled, no memory, or another kernel answer.
    pub fn new(options: RingOptions) -> Result<Ring<S>, RingError> {
        let (io, is_deferred) = build(options)?;
        let (enter_fd, enter_flags) = match register_ring_fd(io.as_raw_fd()) {
            Some(index) => (index, ENTER_REGISTERED_RING),
            None => (io.as_raw_fd(), 0),
        };
        let (enters, completions, gives_back, not_send) = (0, 0, true, PhantomData);
        let mut ring = Ring { io, enter_fd, enter_flags, enters, completions, is_deferred, gives_back, not_send };
        // An unknown enter flag is EINVAL before anything else happens: that is the probe.
        if ring.enter(0, 0, ENTER_GETEVENTS | ENTER_NO_IOWAIT, None).is_ok() {
            ring.enter_flags |= ENTER_NO_IOWAIT;
        }
        Ok(ring)
    }

    /// Queues one operation for the next turn; submits at once when the queue is full.
    ///
    /// # Safety
    /// What the entry points to (buffers, paths, timespecs) must stay valid and unaliased by Rust references until its
    /// completion was reaped, also when the future or request that wanted it is gone.
    ///
    /// # Errors
    /// The kernel's answer when a full queue could not be submitted.
    #[inline]
    pub unsafe fn push(&mut self, entry: &S) -> Result<(), RingError> {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.io.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.turn(Wait::No)?;
        }
    }

    /// Submits what was pushed, lets deferred completions appear, and waits as told: one `io_uring_enter`.
    /// A signal or the end of the time is an ordinary return.
    ///
    /// # Errors
    /// Any kernel answer that is not EINTR, ETIME, EAGAIN or EBUSY (completions to be reaped first).
    #[inline]
    pub fn turn(&mut self, wait: Wait) -> Result<(), RingError> {
        let to_submit = self.io.submission().len() as u32;
        // With a completion there already the kernel does not wait.
        let want = u32::from(wait != Wait::No);
        let timeout = match wait {
            Wait::AtMost(limit) => Some(limit),
            _ => None,
        };
        self.enters += 1;
        match self.enter(to_submit, want, ENTER_GETEVENTS | self.enter_flags, timeout) {
            Ok(()) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(RingError::Kernel { call: "io_uring_enter", source: error }),
            },
        }
    }

    /// Moves completions into `batch` until it is full or none is left. Never allocates: `batch` keeps its capacity.
    #[inline]
    pub fn reap(&mut self, batch: &mut Vec<Completion>) {
        let before = batch.len();
        let mut queue = self.io.completion();
        while batch.len() < batch.capacity() {
            let Some(entry) = queue.next() else { break };
            batch.push(Completion {
                user_data: entry.user_data(),
                result: entry.result(),
                more: cqueue::more(entry.flags()),
            });
        }
        drop(queue);
        self.completions += (batch.len() - before) as u64;
    }

    /// True when nothing is left to submit or to reap, and nothing can complete before the next turn. Always false on kernels without
    /// DEFER_TASKRUN (before 6.1).
    pub fn is_quiet(&mut self) -> bool {
        self.is_deferred && self.io.submission().is_empty() && self.io.completion().is_empty()
    }

    /// True when completions wait to be reaped, or the kernel has some that a turn would bring.
    pub fn has_work(&mut self) -> bool {
        !self.io.completion().is_empty() || self.io.submission().taskrun()
    }

    /// Registers files; an operation names them by their index (`types::Fixed`).
    ///
    /// # Errors
    /// The kernel's answer, EMFILE among them.
    pub fn register_files(&mut self, files: &[BorrowedFd<'_>]) -> Result<(), RingError> {
        let raw: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        self.io
            .submitter()
            .register_files(&raw)
            .map_err(|source| RingError::Kernel { call: "io_uring_register(FILES)", source })
    }

    /// Makes an empty table of `count` fixed buffers, which drivers fill.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn register_buffer_table(&mut self, count: u32) -> Result<(), RingError> {
        self.io
            .submitter()
            .register_buffers_sparse(count)
            .map_err(|source| RingError::Kernel { call: "io_uring_register(BUFFERS)", source })
    }

    /// Signals `fd`, an eventfd, whenever a completion waits: for owners that sleep in another event loop.
    /// A turn that leaves work behind raises no new signal.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn register_eventfd(&mut self, fd: BorrowedFd<'_>) -> Result<(), RingError> {
        self.io
            .submitter()
            .register_eventfd(fd.as_raw_fd())
            .map_err(|source| RingError::Kernel { call: "io_uring_register(EVENTFD)", source })
    }

    /// Leaves what is registered to the kernel when the ring is dropped. For rings that are closed over operations on registered files
    /// that only the closing ends: before Linux 6.13 unregistering files would wait for them, for ever.
    pub fn leave_registered(&mut self) {
        self.gives_back = false;
    }

    /// `io_uring_enter` calls and completions so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.enters, self.completions)
    }

    fn enter(&self, to_submit: u32, want: u32, flags: u32, timeout: Option<Duration>) -> std::io::Result<()> {
        #[repr(C)]
        struct GetEventsArg {
            sigmask: u64,
            sigmask_bytes: u32,
            min_wait_us: u32,
            timespec: u64,
        }
        let timespec = timeout.map(|limit| [limit.as_secs(), u64::from(limit.subsec_nanos())]);
        let argument = timespec.as_ref().map(|timespec| GetEventsArg {
            sigmask: 0,
            sigmask_bytes: 8,
            min_wait_us: 0,
            timespec: timespec.as_ptr() as u64,
        });
        let (pointer, bytes, flags) = match &argument {
            Some(argument) => (std::ptr::from_ref(argument).cast(), size_of::<GetEventsArg>(), flags | ENTER_EXT_ARG),
            None => (std::ptr::null::<libc::c_void>(), 0, flags),
        };
        // SAFETY: the descriptor (or registered index) is this ring's; `argument` and `timespec` outlive the call, which keeps neither.
        let answer =
            unsafe { libc::syscall(libc::SYS_io_uring_enter, self.enter_fd, to_submit, want, flags, pointer, bytes) };
        if answer < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl<S: squeue::EntryMarker> AsFd for Ring<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as `self.io` lives.
        unsafe { BorrowedFd::borrow_raw(self.io.as_raw_fd()) }
    }
}

impl<S: squeue::EntryMarker> Drop for Ring<S> {
    fn drop(&mut self) {
        // Closing alone would release files and buffers some time later, and DEL_DEV waits for the files.
        if self.gives_back {
            let submitter = self.io.submitter();
            let _ = submitter.unregister_files();
            let _ = submitter.unregister_buffers();
        }
        if self.enter_flags & ENTER_REGISTERED_RING != 0 {
            unregister_ring_fd(self.io.as_raw_fd(), self.enter_fd);
        }
    }
}

/// Sets of set-up flags, newest first: SINGLE_ISSUER with DEFER_TASKRUN (6.1) and NO_SQARRAY (6.6) down to none (5.1).
/// With it, whether completions are deferred to turns.
fn build<S: squeue::EntryMarker>(options: RingOptions) -> Result<(IoUring<S, cqueue::Entry>, bool), RingError> {
    let mut refused = None;
    for level in (0..=3).rev() {
        let mut builder = IoUring::<S, cqueue::Entry>::builder();
        builder.dontfork().setup_clamp().setup_cqsize(options.completions.next_power_of_two());
        if level >= 1 {
            builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
        }
        if level >= 2 {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        if level >= 3 {
            builder.setup_no_sqarray();
        }
        match builder.build(options.submissions) {
            Ok(io) => return Ok((io, level >= 2)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
            Err(error) => return Err(setup_error(error, options)),
        }
    }
    let source = refused.unwrap_or_else(|| std::io::Error::from_raw_os_error(libc::EINVAL));
    Err(RingError::Kernel { call: "io_uring_setup", source })
}

fn setup_error(source: std::io::Error, options: RingOptions) -> RingError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => RingError::Disabled(source),
        Some(libc::ENOMEM) => RingError::NoMemory { entries: options.submissions, source },
        _ => RingError::Kernel { call: "io_uring_setup", source },
    }
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// Puts the ring's descriptor into one of the thread's 16 slots, which saves a lookup per enter. None: no slot, or a kernel before 5.18.
fn register_ring_fd(ring_fd: libc::c_int) -> Option<libc::c_int> {
    let mut update = RingFdUpdate { offset: u32::MAX, reserved: 0, data: ring_fd as u64 };
    // SAFETY: the kernel reads and writes one `update`, which lives across the call.
    let done = unsafe { libc::syscall(libc::SYS_io_uring_register, ring_fd, REGISTER_RING_FDS, &raw mut update, 1) };
    (done == 1).then_some(update.offset as libc::c_int)
}

fn unregister_ring_fd(ring_fd: libc::c_int, index: libc::c_int) {
    let update = RingFdUpdate { offset: index as u32, reserved: 0, data: 0 };
    // SAFETY: the kernel reads one `update`, which lives across the call; the index is this thread's own.
    unsafe { libc::syscall(libc::SYS_io_uring_register, ring_fd, UNREGISTER_RING_FDS, &raw const update, 1) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::{opcode, types};
    use std::time::Instant;

    fn ring() -> Ring {
        Ring::new(RingOptions { submissions: 4, completions: 16 }).unwrap()
    }

    fn nop(user_data: u64) -> squeue::Entry {
        opcode::Nop::new().build().user_data(user_data)
    }

    #[test]
    fn operations_come_back_with_their_user_data() {
        let mut ring = ring();
        let mut batch = Vec::with_capacity(16);
        for user_data in 0..3 {
            // SAFETY: NOP points to nothing.
            unsafe { ring.push(&nop(user_data)) }.unwrap();
        }
        ring.turn(Wait::Forever).unwrap();
        ring.reap(&mut batch);
        let mut seen: Vec<_> = batch.iter().map(|completion| completion.user_data).collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(ring.counts(), (1, 3));
    }

    #[test]
    fn a_full_submission_queue_submits_itself() {
        let mut ring = ring();
        let mut batch = Vec::with_capacity(16);
        for user_data in 0..10 {
            // SAFETY: NOP points to nothing.
            unsafe { ring.push(&nop(user_data)) }.unwrap();
        }
        ring.turn(Wait::Forever).unwrap();
        ring.reap(&mut batch);
        assert_eq!(batch.len(), 10);
    }

    #[test]
    fn reap_keeps_within_the_capacity() {
        let mut ring = ring();
        for user_data in 0..4 {
            // SAFETY: NOP points to nothing.
            unsafe { ring.push(&nop(user_data)) }.unwrap();
        }
        ring.turn(Wait::Forever).unwrap();
        let mut batch = Vec::with_capacity(3);
        ring.reap(&mut batch);
        assert_eq!((batch.len(), batch.capacity()), (3, 3));
        batch.clear();
        ring.reap(&mut batch);
        assert_eq!(batch.len(), 1);
    }

    #[test]
    fn a_turn_ends_at_its_time() {
        let mut ring = ring();
        let begin = Instant::now();
        ring.turn(Wait::AtMost(Duration::from_millis(30))).unwrap();
        let waited = begin.elapsed();
        assert!(waited >= Duration::from_millis(29) && waited < Duration::from_secs(5), "{waited:?}");
    }

    #[test]
    fn a_waker_ends_a_wait() {
        let waker = crate::Waker::new().unwrap();
        let remote = waker.clone();
        let mut ring = ring();
        let poll = opcode::PollAdd::new(types::Fd(waker.as_fd().as_raw_fd()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(9);
        // SAFETY: POLL_ADD points to no memory.
        unsafe { ring.push(&poll) }.unwrap();
        let thread = std::thread::spawn(move || remote.wake());
        let mut batch = Vec::with_capacity(4);
        while batch.is_empty() {
            ring.turn(Wait::AtMost(Duration::from_secs(5))).unwrap();
            ring.reap(&mut batch);
        }
        assert_eq!((batch[0].user_data, batch[0].more), (9, true));
        thread.join().unwrap();
    }

    #[test]
    fn dropped_rings_leave_no_descriptor_slot_behind() {
        // Each thread has 16 slots for registered rings: a leak would show as a ring that uses its plain descriptor.
        for _ in 0..40 {
            let ring = ring();
            assert!(ring.enter_flags & ENTER_REGISTERED_RING != 0);
        }
    }
}
