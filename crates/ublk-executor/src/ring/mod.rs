//! One io_uring, owned by one thread.
//!
//! Thread: the one that made it. SINGLE_ISSUER makes the kernel refuse every other, and [`Ring`] is not `Send`.
//! Invariant: completions appear only inside [`Ring::turn`] (DEFER_TASKRUN), so whoever waits must take turns.
//! Closing a ring does not stop its I/O: the owner drains what reads or writes its memory before it drops the ring.

mod error;
#[cfg(all(test, not(loom)))]
mod fault_tests;
#[cfg(test)]
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod faults;
mod opcodes;
mod setup;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use io_uring::{IoUring, Probe, cqueue, squeue};

pub use self::error::RingError;
pub use self::opcodes::MissingOpcode;
pub(crate) use self::opcodes::Opcodes;
use self::setup::{build, register_ring_fd, unregister_ring_fd};

const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
/// Linux 6.15: a waiting server is idle, not in I/O wait; without it `top` shows 100 % iowait per queue.
const ENTER_NO_IOWAIT: u32 = 1 << 7;

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
    /// IORING_CQE_F flags.
    pub flags: u32,
}

impl Completion {
    /// A multishot operation goes on.
    #[inline]
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }
}

/// What the completions of a batch have in common, looked at without a branch for each.
pub(crate) struct Kinds {
    any: u32,
    all: u32,
    ended: usize,
}

impl Kinds {
    /// Of what a batch holds already.
    #[inline]
    pub(crate) fn of(batch: &[Completion]) -> Kinds {
        let mut kinds = Kinds { any: 0, all: u32::MAX, ended: 0 };
        batch.iter().for_each(|completion| kinds.add(completion));
        kinds
    }

    #[inline]
    fn add(&mut self, completion: &Completion) {
        self.any |= completion.user_data as u32;
        self.all &= completion.user_data as u32;
        self.ended += usize::from(!completion.more());
    }

    /// How many operations have ended, if there are completions and all are of one kind.
    #[inline]
    pub(crate) fn ended_of_one(&self) -> Option<usize> {
        (self.any == self.all).then_some(self.ended)
    }
}

impl From<cqueue::Entry> for Completion {
    #[inline]
    fn from(entry: cqueue::Entry) -> Completion {
        Completion { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() }
    }
}

/// How often a submission is repeated before its answer is the caller's: EBUSY ends when completions were taken, EAGAIN and EINTR may last.
const SUBMIT_ATTEMPTS: u32 = 8;

/// A signal, the end of the time, no memory for the moment, completions to be reaped first.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY))
}

#[cold]
fn enter_error(source: io::Error) -> RingError {
    RingError::Kernel { call: "io_uring_enter", source }
}

pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, RingError> {
    fd.try_clone_to_owned().map_err(|source| RingError::Kernel { call: "fcntl(F_DUPFD_CLOEXEC)", source })
}

/// One io_uring and the numbers about its use. `S` is the submission entry: 64 bytes, or 128 for ublk control commands.
pub struct Ring<S: squeue::EntryMarker = squeue::Entry> {
    io: IoUring<S, cqueue::Entry>,
    enter_fd: libc::c_int,
    enter_flags: u32,
    enters: u64,
    completions: u64,
    /// Completions that end no wait of the next turn.
    prompt: u32,
    /// Taken out of the completion queue to make the kernel submit again; reaped first.
    aside: VecDeque<Completion>,
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
        let (enters, completions, prompt, aside, gives_back) = (0, 0, 0, VecDeque::new(), true);
        let not_send = PhantomData;
        let mut ring =
            Ring { io, enter_fd, enter_flags, enters, completions, prompt, aside, is_deferred, gives_back, not_send };
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
    /// The kernel's answer when a full queue could not be submitted, EBUSY and EAGAIN among them when it stays so.
    #[inline(always)] // a call takes as long
    pub unsafe fn push(&mut self, entry: &S) -> Result<(), RingError> {
        // SAFETY: the caller's promise.
        if unsafe { self.io.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.push_all(std::slice::from_ref(entry)) }
    }

    /// Says that what was pushed last completes as soon as it is submitted: the next turn waits for one completion beside it. Its completion is
    /// seen when another one comes, or when the time of that turn is over.
    #[inline]
    pub fn expect_prompt(&mut self) {
        self.prompt += 1;
    }

    /// Queues all of `entries` for one and the same submission, or none: what is linked must not be split over two.
    ///
    /// # Safety
    /// As for [`Ring::push`], for each entry.
    ///
    /// # Errors
    /// As [`Ring::push`]; [`RingError::ChainTooLong`] when the queue could never hold them.
    pub unsafe fn push_all(&mut self, entries: &[S]) -> Result<(), RingError> {
        let capacity = self.io.submission().capacity();
        if entries.len() > capacity {
            return Err(RingError::ChainTooLong { chain: entries.len(), entries: capacity });
        }
        let mut refused = io::Error::from_raw_os_error(libc::EAGAIN);
        // SAFETY: the caller's promise.
        let mut pushed = unsafe { self.io.submission().push_multiple(entries) };
        for _ in 0..SUBMIT_ATTEMPTS {
            if pushed.is_ok() {
                return Ok(());
            }
            match self.submit() {
                Ok(()) => {}
                Err(error) if is_passing(&error) => {
                    refused = error;
                    self.set_aside();
                }
                Err(error) => return Err(enter_error(error)),
            }
            // SAFETY: the caller's promise.
            pushed = unsafe { self.io.submission().push_multiple(entries) };
        }
        pushed.map_err(|_| enter_error(refused))
    }

    /// Submits without waiting.
    fn submit(&mut self) -> io::Result<()> {
        self.enters += 1;
        let to_submit = self.io.submission().len() as u32;
        self.enter(to_submit, 0, ENTER_GETEVENTS | self.enter_flags, None)
    }

    /// EBUSY means that the kernel has no room for completions until some are taken.
    #[cold]
    fn set_aside(&mut self) {
        let queue = self.io.completion();
        self.aside.extend(queue.map(Completion::from));
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
        let prompt = std::mem::take(&mut self.prompt);
        let want = if wait != Wait::No && self.aside.is_empty() { 1 + prompt } else { 0 };
        let timeout = match wait {
            Wait::AtMost(limit) => Some(limit),
            _ => None,
        };
        self.enters += 1;
        match self.enter(to_submit, want, ENTER_GETEVENTS | self.enter_flags, timeout) {
            Err(error) if !is_passing(&error) => Err(enter_error(error)),
            _ => Ok(()),
        }
    }

    /// Moves completions into `batch` until it is full or none is left. Never allocates: `batch` keeps its capacity. Some when there are
    /// completions and all are of one kind, the lower halves of their `user_data` being the same: how many operations have ended.
    #[inline]
    pub fn reap(&mut self, batch: &mut Vec<Completion>) -> Option<usize> {
        let before = batch.len();
        if !self.aside.is_empty() {
            let room = batch.capacity() - batch.len();
            batch.extend(self.aside.drain(..room.min(self.aside.len())));
        }
        let (mut taken, mut kinds) = (0, Kinds::of(batch));
        for (place, entry) in batch.spare_capacity_mut().iter_mut().zip(self.io.completion()) {
            let completion = Completion::from(entry);
            kinds.add(&completion);
            place.write(completion);
            taken += 1;
        }
        // SAFETY: so many places, from the end of the vector on and within its capacity, were written just now.
        unsafe { batch.set_len(batch.len() + taken) };
        self.completions += (batch.len() - before) as u64;
        kinds.ended_of_one()
    }

    /// True when nothing is left to submit or to reap, and nothing can complete before the next turn. Always false on kernels without
    /// DEFER_TASKRUN (before 6.1).
    pub fn is_quiet(&mut self) -> bool {
        let submission = self.io.submission();
        let is_empty = submission.is_empty() && !submission.cq_overflow();
        drop(submission);
        self.is_deferred && is_empty && self.io.completion().is_empty() && self.aside.is_empty()
    }

    /// True when completions wait to be reaped, or the kernel has some that a turn would bring.
    #[inline]
    pub fn has_work(&mut self) -> bool {
        if !self.io.completion().is_empty() || !self.aside.is_empty() {
            return true;
        }
        let submission = self.io.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// True when something that was pushed waits for the next turn.
    pub fn has_unsubmitted(&mut self) -> bool {
        !self.io.submission().is_empty()
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

    /// Makes group `group` of provided buffers, whose ring of one entry is the page at `ring`. Its buffer is used up piece by piece
    /// (IOU_PBUF_RING_INC, Linux 6.12).
    ///
    /// # Safety
    /// The page, and the buffers that are put into it, stay allocated until this ring is closed.
    ///
    /// # Errors
    /// The kernel's answer: EINVAL before 6.12, EEXIST when the group is there.
    pub unsafe fn register_buffer_ring(&mut self, ring: u64, group: u16) -> Result<(), RingError> {
        const INCREMENTAL: u16 = 2; // IOU_PBUF_RING_INC in linux/io_uring.h
        // SAFETY: the caller's promise.
        unsafe { self.io.submitter().register_buf_ring_with_flags(ring, 1, group, INCREMENTAL) }
            .map_err(|source| RingError::Kernel { call: "io_uring_register(PBUF_RING)", source })
    }

    /// Makes an empty table of `count` files, for [`Ring::set_file`].
    ///
    /// # Errors
    /// The kernel's answer, EMFILE among them.
    pub fn register_file_table(&mut self, count: u32) -> Result<(), RingError> {
        self.io
            .submitter()
            .register_files_sparse(count)
            .map_err(|source| RingError::Kernel { call: "io_uring_register(FILES)", source })
    }

    /// Puts a file into a place of the table, or takes it out. Operations under way keep theirs.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn set_file(&mut self, slot: u32, file: Option<BorrowedFd<'_>>) -> Result<(), RingError> {
        let raw = file.map_or(-1, |file| file.as_raw_fd());
        match self.io.submitter().register_files_update(slot, &[raw]) {
            Ok(_) => Ok(()),
            Err(source) => Err(RingError::Kernel { call: "io_uring_register(FILES_UPDATE)", source }),
        }
    }

    /// Pins memory and puts it into a place of the table of buffers; null takes out what is there.
    ///
    /// # Safety
    /// The memory stays allocated until it was taken out, or the ring is closed.
    ///
    /// # Errors
    /// The kernel's answer, ENOMEM beyond RLIMIT_MEMLOCK among them.
    pub unsafe fn set_buffer(&mut self, slot: u32, start: *mut u8, bytes: usize) -> Result<(), RingError> {
        let buffer = libc::iovec { iov_base: start.cast(), iov_len: bytes };
        // SAFETY: the caller's promise; the kernel reads the iovec during the call alone.
        unsafe { self.io.submitter().register_buffers_update(slot, &[buffer], None) }
            .map_err(|source| RingError::Kernel { call: "io_uring_register(BUFFERS_UPDATE)", source })
    }

    /// A second descriptor of the ring: the kernel closes it when both are closed. Nothing is done in it meanwhile but what needs no turn.
    ///
    /// # Errors
    /// EMFILE; EOPNOTSUPP without DEFER_TASKRUN (before 6.1): everything is done without turns there.
    pub fn second_fd(&self) -> Result<OwnedFd, RingError> {
        if !self.is_deferred {
            let source = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
            return Err(RingError::Kernel { call: "a ring that outlives its owner", source });
        }
        duplicate(self.as_fd())
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

    /// Which operations this kernel has.
    pub(crate) fn opcodes(&self) -> Opcodes {
        let mut probe = Probe::new();
        match self.io.submitter().register_probe(&mut probe) {
            Ok(()) => Opcodes::of(&probe),
            Err(_) => Opcodes::ALL,
        }
    }

    fn enter(&self, to_submit: u32, want: u32, flags: u32, timeout: Option<Duration>) -> io::Result<()> {
        #[cfg(test)]
        let (to_submit, want) = faults::enter(to_submit, want)?;
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
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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
