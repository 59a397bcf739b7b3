//! A thread's own executor: runs futures that never leave their thread, and sleeps in its ring.
//!
//! A [`LocalExecutor`] is a value: it owns its tasks, parked ones too, and when it is dropped they are dropped, on its thread. There is no
//! registry and no global state; what other threads hold of it (wakers) is a number and an inbox.

mod class;
mod context;
mod core;
#[cfg(all(test, not(loom)))]
#[allow(unsafe_code)]
mod fault_tests;
mod join;
mod locals;
#[cfg(test)]
#[allow(unsafe_code)]
mod mock_ring;
#[cfg(all(test, not(loom)))]
#[allow(unsafe_code)]
mod mock_tests;
#[cfg(all(test, loom))]
mod models;
mod pool;
mod remote;
mod spin;
mod stats;
mod task;
mod thread;
mod timers;

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc as CellArc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::squeue::{Entry128, EntryMarker};
use slotmap::Key;

use self::core::Limits;
use crate::blocking::Pool;
use crate::clock;
use crate::reactor::{AnyPort, Reactor};
use crate::ring::{Ring, RingError, RingOptions, Wait};
use crate::sync::Arc;
use crate::wake::EventFd;
use task::{TaskInbox, TaskKey, WakeCell};
use thread::ThreadOptions;

pub use self::class::{Class, Shares};
pub(crate) use self::context::current;
pub use self::core::Closed;
pub(crate) use self::core::{Core, drop_payload};
pub(crate) use self::join::message_of;
pub use self::join::{JoinError, JoinHandle};
pub use self::locals::TaskLocal;
pub use self::pool::{ExecutorPool, PoolBuilder, PoolError, Shard};
pub use self::remote::{RemoteGone, RemoteHandle, RemoteJoin};
pub use self::stats::{ClassStats, Stats};
pub use self::thread::{ExecutorThread, ShardError, SpawnError};
pub use self::timers::{Sleep, sleep, sleep_until};

/// Never without a pause: each attempt that fails leaves kilobytes that the kernel also gives back later, and more slowly than they are made.
const MEMORY_PAUSES_MS: [u64; 8] = [1, 2, 5, 20, 50, 100, 300, 500];

/// Why an executor could not be made, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The descriptor that other threads wake it by.
    #[error("eventfd: {0}; is the limit of open files reached (ulimit -n)?")]
    Signal(std::io::Error),
}

/// `spawn` came after the executor began to close: the future, untouched.
pub struct SpawnRefused<F>(pub F);

impl<F> fmt::Debug for SpawnRefused<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl<F> fmt::Display for SpawnRefused<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the executor is closing and takes no more tasks")
    }
}

impl<F> std::error::Error for SpawnRefused<F> {}

/// How a task is run.
#[derive(Debug, Clone, Copy)]
pub struct TaskOptions {
    /// Its class; default [`Class::Normal`].
    pub class: Class,
    /// Its name, for the stall detector; default "task".
    pub name: &'static str,
}

impl Default for TaskOptions {
    fn default() -> TaskOptions {
        TaskOptions { class: Class::default(), name: "task" }
    }
}

/// Makes a [`LocalExecutor`].
#[derive(Debug, Clone)]
pub struct Builder {
    ring_entries: u32,
    completions: Option<u32>,
    wide_entries: bool,
    fixed_files: u32,
    fixed_buffers: u32,
    shares: Shares,
    limits: Limits,
    close_limit: Duration,
    thread: ThreadOptions,
    blocking_threads: usize,
}

impl Builder {
    /// Submissions that the ring holds before it enters by itself; default 256.
    pub fn ring_entries(mut self, entries: u32) -> Builder {
        self.ring_entries = entries;
        self
    }

    /// Completions that the ring holds, at best as many as operations can be under way; default four times the submissions.
    pub fn completions(mut self, entries: u32) -> Builder {
        self.completions = Some(entries);
        self
    }

    /// Makes the ring's entries 128 bytes long, which [`crate::io::uring_cmd80`] needs; default false: 64 bytes.
    pub fn wide_entries(mut self, are_wide: bool) -> Builder {
        self.wide_entries = are_wide;
        self
    }

    /// Places for [`DmaFile::fixed`](crate::io::DmaFile::fixed); default 0. The table is the ring's only one: clients that register files of
    /// their own cannot share it.
    pub fn fixed_files(mut self, count: u32) -> Builder {
        self.fixed_files = count;
        self
    }

    /// Places for [`FixedBuffer`](crate::io::FixedBuffer), at most 16384; default 0. The table is the ring's only one: clients that
    /// register buffers of their own cannot share it.
    pub fn fixed_buffers(mut self, count: u32) -> Builder {
        self.fixed_buffers = count;
        self
    }

    /// Run time of the task classes; default [`Shares::default`].
    pub fn shares(mut self, shares: Shares) -> Builder {
        self.shares = shares;
        self
    }

    /// Time after which a busy executor looks at its ring, and [`yield_if_needed`] yields; default 200 µs.
    pub fn slice(mut self, slice: Duration) -> Builder {
        self.limits.slice = slice;
        self
    }

    /// Polls that take longer are counted and named as stalls; default 10 ms.
    pub fn stall_limit(mut self, limit: Duration) -> Builder {
        self.limits.stall = limit;
        self
    }

    /// How long a busy executor looks for more before it sleeps; default 0: not at all. For shards that answer each other at once, on CPUs that
    /// nobody else wants: 20 to 50 µs, which is what a sleep and its end take. An executor whose looks find nothing stops looking.
    pub fn spin(mut self, limit: Duration) -> Builder {
        self.limits.spin = limit;
        self
    }

    /// Most threads for the closures of [`unblock`](crate::unblock), at least 1; default 4. Started when they are needed.
    pub fn blocking_threads(mut self, threads: usize) -> Builder {
        self.blocking_threads = threads;
        self
    }

    /// How long the executor's end waits for operations and closures under way; default 30 s.
    pub fn close_limit(mut self, limit: Duration) -> Builder {
        self.close_limit = limit;
        self
    }

    /// Makes the executor, for this thread. Waits up to a second for the memory of rings that were closed: the kernel gives it back later.
    ///
    /// # Errors
    /// [`ExecutorError::Ring`]: io_uring is switched off or not allowed (EPERM, ENOSYS), or its memory exceeds the limit (ENOMEM),
    /// or the kernel's answer to the tables of fixed files and buffers.
    /// [`ExecutorError::Signal`]: no file descriptor left.
    pub fn build(self) -> Result<LocalExecutor, ExecutorError> {
        let port = if self.wide_entries {
            AnyPort::Other(Box::new(self.ring::<Entry128>()?))
        } else {
            AnyPort::Usual(self.ring()?)
        };
        self.build_on(port)
    }

    fn ring<S: EntryMarker>(&self) -> Result<Ring<S>, RingError> {
        let completions = self.completions.unwrap_or(self.ring_entries.saturating_mul(4));
        let options = RingOptions { submissions: self.ring_entries, completions };
        let mut pauses = MEMORY_PAUSES_MS.iter();
        loop {
            match Ring::new(options) {
                Err(error @ RingError::NoMemory { .. }) => match pauses.next() {
                    Some(&pause) => std::thread::sleep(Duration::from_millis(pause)),
                    None => return Err(error),
                },
                answer => return answer,
            }
        }
    }

    fn build_on(self, port: AnyPort) -> Result<LocalExecutor, ExecutorError> {
        self.build_with(port, EventFd::new().map_err(ExecutorError::Signal)?)
    }

    fn build_with(self, port: AnyPort, signal: EventFd) -> Result<LocalExecutor, ExecutorError> {
        let listener = signal.listener().map_err(ExecutorError::Signal)?;
        let reactor = Reactor::new(port, listener, self.fixed_files, self.fixed_buffers)?;
        let inbox = Arc::new(TaskInbox::new(signal));
        let blocking = Pool::new(self.blocking_threads);
        let core = core::Core::new(inbox, reactor, self.shares, self.limits, blocking);
        Ok(LocalExecutor { core, close_limit: self.close_limit })
    }
}

/// An executor of one thread. Neither `Send` nor `Sync`.
///
/// ```
/// use ublk_executor::{LocalExecutor, spawn_local};
///
/// let executor = LocalExecutor::new()?;
/// let sum = executor.block_on(async {
///     let one = spawn_local(async { 1 }).unwrap();
///     let two = spawn_local(async { 2 }).unwrap();
///     one.await.unwrap() + two.await.unwrap()
/// })?;
/// assert_eq!(sum, 3);
/// # Ok::<(), ublk_executor::ExecutorError>(())
/// ```
pub struct LocalExecutor {
    pub(crate) core: Rc<core::Core>,
    close_limit: Duration,
}

assert_not_impl!(LocalExecutor, Send);
assert_not_impl!(LocalExecutor, Sync);
assert_not_impl!(LocalExecutor, Clone);
assert_not_impl!(JoinHandle<()>, Send);
assert_not_impl!(JoinHandle<()>, Sync);
assert_not_impl!(JoinHandle<()>, Clone);
assert_not_impl!(RemoteJoin<()>, Clone);
assert_not_impl!(RemoteJoin<std::rc::Rc<()>>, Send);
assert_not_impl!(ExecutorPool<()>, Clone);
assert_not_impl!(Sleep, Send);
assert_not_impl!(Sleep, Sync);
assert_not_impl!(Sleep, Clone);
assert_not_impl!(Yield, Send);
assert_not_impl!(Yield, Sync);

impl LocalExecutor {
    /// An executor with the defaults of [`Builder`].
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new() -> Result<LocalExecutor, ExecutorError> {
        LocalExecutor::builder().build()
    }

    /// The defaults, to be changed.
    pub fn builder() -> Builder {
        Builder {
            ring_entries: 256,
            completions: None,
            wide_entries: false,
            fixed_files: 0,
            fixed_buffers: 0,
            shares: Shares::default(),
            limits: Limits {
                slice: Duration::from_micros(200),
                stall: Duration::from_millis(10),
                spin: Duration::ZERO,
            },
            close_limit: Duration::from_secs(30),
            thread: ThreadOptions::default(),
            blocking_threads: 4,
        }
    }

    /// Runs the executor until `future` is ready. Tasks that are left then stay, and go on in the next `block_on`.
    ///
    /// # Errors
    /// The kernel's answer to `io_uring_enter`, when it is one that does not pass. Tasks stay as they are.
    ///
    /// # Panics
    /// With the panic of `future`. Within a `block_on` of the same executor.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, ExecutorError> {
        let _entered = context::enter(&self.core);
        let _running = self.core.begin_run();
        let mut locals = None;
        let _locals = self.core.locals.enter(&mut locals);
        let mut future = pin!(future);
        let waker = Waker::from(CellArc::new(WakeCell::new(&self.core.inbox, TaskKey::null())));
        self.core.begin_slice();
        self.core.make_ready(TaskKey::null());
        loop {
            while self.core.run_slice() {
                let begin = clock::ticks();
                if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    self.core.forget_main();
                    return Ok(output);
                }
                self.core.charge_main(clock::ticks().saturating_sub(begin));
                if self.core.should_yield() {
                    break;
                }
            }
            let turned = self.core.turn(Wait::Forever);
            self.core.awake();
            turned?;
            self.core.begin_slice();
        }
    }

    /// One round for an executor that a loop of the caller's own drives, instead of [`LocalExecutor::block_on`]: runs what is runnable for a
    /// slice at most, submits, waits as told unless there is more to run, and runs what that has made runnable. May return early.
    ///
    /// Whoever sleeps elsewhere between rounds does so for [`LocalExecutor::until_next`] at most, and watches
    /// [`External::register_eventfd`](crate::external::External::register_eventfd).
    ///
    /// # Errors
    /// As [`LocalExecutor::block_on`].
    ///
    /// # Panics
    /// Within a `block_on` of the same executor.
    pub fn turn(&self, wait: Wait) -> Result<(), ExecutorError> {
        let _running = self.core.begin_run();
        if self.core.is_busy() {
            self.run_ready();
        }
        let turned = self.core.turn(wait);
        if self.core.is_busy() {
            self.run_ready();
        }
        self.core.leave();
        Ok(turned?)
    }

    fn run_ready(&self) {
        let _entered = context::enter(&self.core);
        self.core.begin_slice();
        self.core.run_slice();
    }

    /// How long there is nothing to do unless something comes; `No` when there is.
    pub fn until_next(&self) -> Wait {
        self.core.until_next()
    }

    /// Adds a task; it runs within `block_on`.
    ///
    /// # Errors
    /// The future itself, when the executor is closing.
    pub fn spawn_local<F>(&self, future: F) -> Result<JoinHandle<F::Output>, SpawnRefused<F>>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.spawn_with(TaskOptions::default(), future)
    }

    /// [`LocalExecutor::spawn_local`] of a class and with a name.
    ///
    /// # Errors
    /// The future itself, when the executor is closing.
    pub fn spawn_with<F>(&self, options: TaskOptions, future: F) -> Result<JoinHandle<F::Output>, SpawnRefused<F>>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.core.spawn(options, future)
    }

    /// What other threads start tasks here by.
    pub fn remote(&self) -> RemoteHandle {
        RemoteHandle::new(&self.core.inbox)
    }

    /// Numbers so far.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// What dropping does, and what became of it: drops every task, and every closure of [`unblock`](crate::unblock) that has not begun; waits
    /// for operations under way (closing a ring does not stop them) and for closures that have begun; gives ring and descriptors back. Bounded by [`Builder::close_limit`].
    pub fn close(self) -> Closed {
        self.core.close(self.close_limit)
    }
}

impl Drop for LocalExecutor {
    fn drop(&mut self) {
        self.core.close(self.close_limit);
    }
}

impl fmt::Debug for LocalExecutor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LocalExecutor").field("stats", &self.stats()).finish()
    }
}

/// Adds a task to the executor that runs on this thread.
///
/// # Errors
/// The future itself, when the executor is closing.
///
/// # Panics
/// Outside of an executor.
pub fn spawn_local<F>(future: F) -> Result<JoinHandle<F::Output>, SpawnRefused<F>>
where
    F: Future + 'static,
    F::Output: 'static,
{
    spawn_with(TaskOptions::default(), future)
}

/// [`spawn_local`] of a class and with a name.
///
/// # Errors
/// The future itself, when the executor is closing.
///
/// # Panics
/// Outside of an executor.
pub fn spawn_with<F>(options: TaskOptions, future: F) -> Result<JoinHandle<F::Output>, SpawnRefused<F>>
where
    F: Future + 'static,
    F::Output: 'static,
{
    context::current().expect("a task is spawned outside of an executor").spawn(options, future)
}

/// Lets the others run: ready at the second poll. Cancel-safe.
pub fn yield_now() -> Yield {
    Yield { is_done: false, not_send: PhantomData }
}

/// Yields if this task has had its slice, or completions wait in the ring; else goes on at once. For long computations. Cancel-safe.
///
/// # Panics
/// Outside of an executor.
pub fn yield_if_needed() -> Yield {
    let should = context::with(|core| core.map(|core| core.should_yield()));
    Yield { is_done: !should.expect("yield_if_needed is called outside of an executor"), not_send: PhantomData }
}

/// See [`yield_now`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Yield {
    is_done: bool,
    not_send: PhantomData<*const ()>,
}

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.is_done, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
