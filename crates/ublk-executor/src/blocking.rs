//! Calls that block, on a few threads of the executor's own.
//!
//! A pool belongs to one executor. Its threads are started when there is work and none is idle, end after some seconds without any, and
//! share nothing with tasks but the pool's queue and a reply for each closure: a closure owns what it works on, so the executor's end can
//! never free it. The end drops closures that have not begun, and waits for those that have.
//!
//! Invariant: while a closure is queued, a thread is there that will look at the queue again, or none could be started and the closure's
//! future says so. Foreign code (closures, their destructors) never runs under the lock.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::executor::{current, drop_payload, message_of};
use crate::reply::{Answer, Gone, reply};

/// How long a thread waits for work before it ends.
const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// Why a closure has no output.
#[non_exhaustive]
pub enum BlockingError {
    /// It panicked with this. Its thread goes on.
    Panicked(Box<dyn Any + Send>),
    /// The executor ended before the closure's turn: it was dropped and never run.
    Closed,
    /// No thread runs, and none could be started: the limit of threads or of memory (`ulimit -u`, `pids.max`) is reached.
    NoThread(io::Error),
}

impl fmt::Display for BlockingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockingError::Panicked(payload) => write!(formatter, "the closure panicked: {}", message_of(&**payload)),
            BlockingError::Closed => formatter.write_str("the executor ended before the closure was run"),
            BlockingError::NoThread(error) => {
                write!(formatter, "no thread for the closure: {error}; see ulimit -u and the cgroup's pids.max")
            }
        }
    }
}

impl fmt::Debug for BlockingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl std::error::Error for BlockingError {}

impl From<BlockingError> for io::Error {
    fn from(error: BlockingError) -> io::Error {
        match error {
            BlockingError::NoThread(error) => error,
            other => io::Error::other(other.to_string()),
        }
    }
}

/// Runs `closure` on a thread of the executor's pool, where it may block; there are
/// [`Builder::blocking_threads`](crate::executor::Builder::blocking_threads) of them, and closures beyond wait for their turn, in order.
/// The threads inherit the placement of the executor's.
///
/// It is queued at once. Cancel-safe: dropping the future gives up the output alone; the closure runs unless the executor ends before its turn.
///
/// ```
/// use ublk_executor::{LocalExecutor, unblock};
///
/// let text = LocalExecutor::new()?.block_on(async {
///     unblock(|| std::fs::read_to_string("/proc/self/comm")).await
/// })?;
/// assert!(!text??.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Panics
/// Outside of an executor.
pub fn unblock<F, T>(closure: F) -> Unblock<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let (reply, answer) = reply();
    let job: Job = Box::new(move || reply.send(catch_unwind(AssertUnwindSafe(closure))));
    let core = current().expect("unblock is called outside of an executor");
    Unblock { refused: core.blocking.push(job).err(), answer }
}

/// The output of a closure on its way to another thread and back, see [`unblock`].
#[must_use = "whether the closure was run is known only to whoever awaits it"]
pub struct Unblock<T> {
    /// The queue did not take the closure.
    refused: Option<BlockingError>,
    answer: Answer<thread::Result<T>>,
}

impl<T> Future for Unblock<T> {
    type Output = Result<T, BlockingError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.answer).poll(context).map(|answer| match answer {
            Ok(result) => result.map_err(BlockingError::Panicked),
            Err(Gone) => Err(BlockingError::Closed),
        })
    }
}

impl<T> fmt::Debug for Unblock<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Unblock")
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The threads of one executor, and what they are to do.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: RefCell<Vec<JoinHandle<()>>>,
    most_threads: usize,
}

struct Shared {
    state: Mutex<State>,
    /// There is work, or the pool closes.
    work: Condvar,
    /// A thread has ended.
    ended: Condvar,
    idle_limit: Duration,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Threads that run.
    threads: usize,
    /// Those of them that wait for work.
    idle: usize,
    /// Those of them that are in a closure.
    busy: usize,
    is_closed: bool,
}

impl Pool {
    /// At least one thread, at most as many as given.
    pub(crate) fn new(most_threads: usize) -> Pool {
        Pool::with_idle_limit(most_threads, IDLE_LIMIT)
    }

    fn with_idle_limit(most_threads: usize, idle_limit: Duration) -> Pool {
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), ended: Condvar::new(), idle_limit };
        Pool { shared: Arc::new(shared), threads: RefCell::default(), most_threads: most_threads.max(1) }
    }

    fn push(&self, job: Job) -> Result<(), BlockingError> {
        let mut state = self.shared.lock();
        if state.is_closed {
            drop(state); // before the closure
            return Err(BlockingError::Closed);
        }
        state.queue.push_back(job);
        // An idle thread that was notified for an earlier closure counts as idle until it has the lock again.
        if state.queue.len() > state.idle && state.threads < self.most_threads {
            match self.start_thread() {
                Ok(()) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    let job = state.queue.pop_back();
                    drop(state);
                    drop(job);
                    return Err(BlockingError::NoThread(error));
                }
                Err(_) => {} // one of those that run will do it
            }
        }
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    /// The caller counts it, under the lock that the thread's first step takes.
    fn start_thread(&self) -> io::Result<()> {
        let mut threads = self.threads.borrow_mut();
        for ended in threads.extract_if(.., |thread| thread.is_finished()) {
            let _ = ended.join(); // it has ended; nothing in it panics
        }
        let shared = Arc::clone(&self.shared);
        threads.push(thread::Builder::new().name("blocking".into()).spawn(move || shared.serve())?);
        Ok(())
    }

    /// Takes no more, and gives back what has not begun, for the caller to drop.
    pub(crate) fn close(&self) -> impl Iterator<Item = Job> + use<> {
        let mut state = self.shared.lock();
        state.is_closed = true;
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        self.shared.work.notify_all();
        queue.into_iter()
    }

    /// After [`Pool::close`]: waits for the threads, without a deadline for ever. Returns how many closures had not ended by then: they go on,
    /// and their threads end with them.
    pub(crate) fn join(&self, deadline: Option<Instant>) -> usize {
        let mut state = self.shared.lock();
        while state.threads > 0 {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            state = match left {
                None => self.shared.ended.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => break,
                Some(left) => self.shared.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        let (threads, busy) = (state.threads, state.busy);
        drop(state);
        for thread in self.threads.take() {
            if threads == 0 || thread.is_finished() {
                let _ = thread.join();
            }
        }
        busy
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does.
    fn serve(&self) {
        while let Some(job) = self.next() {
            // The closure's own panic is in its reply; this one is of a destructor or of a waker.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
                drop_payload(payload);
            }
            self.lock().busy -= 1;
        }
    }

    /// Waits for work. None, and the thread no longer counts: the pool is closed, or there was none for too long.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        let deadline = Instant::now() + self.idle_limit;
        loop {
            if let Some(job) = state.queue.pop_front() {
                state.busy += 1;
                return Some(job);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.is_closed || left.is_zero() {
                state.threads -= 1;
                self.ended.notify_one();
                return None;
            }
            state.idle += 1;
            state = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn wait_for(pool: &Pool, what: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !what(&pool.shared.lock()) {
            assert!(Instant::now() < deadline, "not reached in 10 s");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn threads_end_when_idle_and_come_back_for_work() {
        let pool = Pool::with_idle_limit(2, Duration::from_millis(20));
        for _ in 0..3 {
            for _ in 0..2 {
                let job = || thread::sleep(Duration::from_millis(10));
                pool.push(Box::new(job)).unwrap_or_else(|error| panic!("{error}"));
            }
            assert_eq!(pool.shared.lock().threads, 2);
            wait_for(&pool, |state| state.threads == 0);
        }
        assert!(pool.threads.borrow().len() <= 2, "handles of threads that have ended are kept");
        assert_eq!(pool.close().count(), 0);
        assert_eq!(pool.join(None), 0);
    }

    #[test]
    fn an_idle_thread_is_used_before_another_is_started() {
        let pool = Pool::with_idle_limit(4, Duration::from_secs(3600));
        for _ in 0..20 {
            pool.push(Box::new(|| {})).unwrap_or_else(|error| panic!("{error}"));
            wait_for(&pool, |state| state.queue.is_empty() && state.idle == state.threads);
        }
        assert_eq!(pool.shared.lock().threads, 1);
        drop(pool.close());
        assert_eq!(pool.join(None), 0);
    }

    #[test]
    fn what_runs_at_the_deadline_is_counted_and_what_is_idle_is_not() {
        let pool = Pool::new(4);
        let (release, hang) = std::sync::mpsc::channel::<()>();
        for _ in 0..3 {
            pool.push(Box::new(|| thread::sleep(Duration::from_millis(10)))).unwrap_or_else(|error| panic!("{error}"));
        }
        wait_for(&pool, |state| state.idle == 3);
        pool.push(Box::new(move || assert!(hang.recv().is_err()))).unwrap_or_else(|error| panic!("{error}"));
        wait_for(&pool, |state| state.queue.is_empty() && state.idle == 2);
        assert_eq!(pool.join(Some(Instant::now())), 1);
        drop(release);
        wait_for(&pool, |state| state.idle == 3);
        drop(pool.close());
        assert_eq!(pool.join(None), 0);
    }
}
