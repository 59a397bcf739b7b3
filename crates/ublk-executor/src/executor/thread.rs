//! One executor on a thread of its own, with name, stack and CPUs.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use super::join::message_of;
use super::{Builder, ExecutorError, RemoteHandle};
use crate::placement::{self, ShardCpus, Strategy, Warning};

/// Why there is no thread with an executor.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The allowed CPUs are not to be had.
    #[error("sched_getaffinity: {0}")]
    Affinity(io::Error),
    /// No thread could be made.
    #[error("no thread: {0}; is the limit of processes reached (ulimit -u), or the stack too large?")]
    Thread(io::Error),
    /// Its executor could not be made.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
}

/// Why a shard has no result.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Its ring broke.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// Its future panicked.
    #[error("the shard panicked: {0}")]
    Panicked(String),
}

/// How a thread is made.
#[derive(Debug, Clone)]
pub(super) struct ThreadOptions {
    pub(super) name: String,
    pub(super) strategy: Strategy,
    /// None: what std gives.
    pub(super) stack_bytes: Option<usize>,
}

impl Default for ThreadOptions {
    fn default() -> ThreadOptions {
        ThreadOptions { name: "executor".into(), strategy: Strategy::Unbound, stack_bytes: None }
    }
}

impl Builder {
    /// Name of the thread that [`Builder::spawn`] makes; default "executor". The kernel shows 15 bytes of it.
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.thread.name = name.into();
        self
    }

    /// Where the thread runs that [`Builder::spawn`] makes; default [`Strategy::Unbound`].
    pub fn placement(mut self, strategy: Strategy) -> Builder {
        self.thread.strategy = strategy;
        self
    }

    /// Stack of the thread that [`Builder::spawn`] makes; default that of [`std::thread::Builder`], 2 MiB. Tasks live on the heap: it has
    /// to hold one poll at a time.
    pub fn stack_bytes(mut self, bytes: usize) -> Builder {
        self.thread.stack_bytes = Some(bytes);
        self
    }

    /// Starts a thread with the executor, which calls `make` there and runs the future to its end. Returns when the executor is there.
    ///
    /// # Errors
    /// When the thread or the executor cannot be had; `make` is then not called.
    ///
    /// # Panics
    /// When the name has a zero byte.
    pub fn spawn<M, F>(self, make: M) -> Result<ExecutorThread<F::Output>, SpawnError>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future,
        F::Output: Send + 'static,
    {
        let mut plan = placement::plan(&self.thread.strategy, 1).map_err(SpawnError::Affinity)?;
        let cpus = plan.shards.remove(0); // as many as were asked for
        let mut thread = self.spawn_on(cpus, make)?;
        thread.warnings = plan.warnings;
        Ok(thread)
    }

    /// As [`Builder::spawn`], on CPUs that were chosen already.
    pub(super) fn spawn_on<M, F>(self, cpus: ShardCpus, make: M) -> Result<ExecutorThread<F::Output>, SpawnError>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future,
        F::Output: Send + 'static,
    {
        let (report, ready) = mpsc::sync_channel(1);
        let mut builder = thread::Builder::new().name(self.thread.name.clone());
        if let Some(bytes) = self.thread.stack_bytes {
            builder = builder.stack_size(bytes);
        }
        let thread = builder.spawn(move || run(&cpus, self, &report, make)).map_err(SpawnError::Thread)?;
        let remote = ready.recv().unwrap_or_else(|_| Err(ended_early()))?;
        Ok(ExecutorThread { thread, remote, warnings: Vec::new() })
    }
}

fn ended_early() -> ExecutorError {
    ExecutorError::Signal(io::ErrorKind::BrokenPipe.into())
}

/// None: there was no executor.
fn run<M, F>(
    cpus: &ShardCpus,
    builder: Builder,
    report: &SyncSender<Result<RemoteHandle, ExecutorError>>,
    make: M,
) -> Option<Result<F::Output, ShardError>>
where
    M: FnOnce() -> F,
    F: Future,
{
    // A CPU that went away meanwhile: the shard runs wherever it may.
    let _ = cpus.bind_current_thread();
    let executor = match builder.build() {
        Ok(executor) => executor,
        Err(error) => {
            let _ = report.send(Err(error));
            return None;
        }
    };
    let _ = report.send(Ok(executor.remote()));
    let run = || executor.block_on(async { make().await });
    let result = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(ShardError::from),
        Err(payload) => Err(panicked(payload.as_ref())),
    };
    Some(result)
}

/// An executor on a thread of its own; see [`Builder::spawn`]. Dropping it lets it run on.
#[must_use = "the result, and the panic, come with `join`"]
pub struct ExecutorThread<T> {
    thread: thread::JoinHandle<Option<Result<T, ShardError>>>,
    remote: RemoteHandle,
    warnings: Vec<Warning>,
}

impl<T> ExecutorThread<T> {
    /// For work from outside.
    pub fn remote(&self) -> &RemoteHandle {
        &self.remote
    }

    /// What of the wish for CPUs could not be granted; empty when all was.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Waits for the thread, which ends when its future has and its executor is closed.
    ///
    /// # Errors
    /// When its future panicked, or its ring broke.
    pub fn join(self) -> Result<T, ShardError> {
        match self.thread.join() {
            Ok(Some(result)) => result,
            Ok(None) => Err(ShardError::Executor(ended_early())),
            Err(payload) => Err(panicked(payload.as_ref())),
        }
    }
}

fn panicked(payload: &(dyn Any + Send)) -> ShardError {
    ShardError::Panicked(message_of(payload).to_owned())
}

impl<T> fmt::Debug for ExecutorThread<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ExecutorThread").field("thread", self.thread.thread()).finish()
    }
}
