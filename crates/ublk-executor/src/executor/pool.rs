//! One executor for each core: a thread each, bound to its CPUs, which knows the others.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};

use super::{Builder, ExecutorError, ExecutorThread, LocalExecutor, RemoteHandle, ShardError, SpawnError};
use crate::placement::{self, Strategy, Warning};

/// Why a pool did not start.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A pool of no shards.
    #[error("a pool needs one shard at least")]
    NoShards,
    /// The allowed CPUs are not to be had.
    #[error("sched_getaffinity: {0}")]
    Affinity(io::Error),
    /// No thread could be made.
    #[error(
        "shard {shard}: no thread: {source}; is the limit of processes reached (ulimit -u), or the stack too large?"
    )]
    Thread {
        /// Number of the shard.
        shard: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A shard's executor could not be made.
    #[error("shard {shard}: {source}")]
    Executor {
        /// Number of the shard.
        shard: usize,
        /// Why.
        source: ExecutorError,
    },
}

/// What a shard knows of its pool.
#[derive(Debug, Clone)]
pub struct Shard {
    /// Its number, from 0 on.
    pub index: usize,
    /// All shards by number, this one included.
    pub remotes: Arc<[RemoteHandle]>,
}

/// Makes an [`ExecutorPool`].
#[derive(Debug, Clone)]
pub struct PoolBuilder {
    shards: Option<usize>,
    strategy: Strategy,
    name: String,
    executor: Builder,
}

impl Default for PoolBuilder {
    fn default() -> PoolBuilder {
        PoolBuilder {
            shards: None,
            strategy: Strategy::Spread,
            name: "shard".into(),
            executor: LocalExecutor::builder(),
        }
    }
}

impl PoolBuilder {
    /// Number of shards; default: one for each CPU that the process is allowed.
    pub fn shards(mut self, shards: usize) -> PoolBuilder {
        self.shards = Some(shards);
        self
    }

    /// Where they run; default [`Strategy::Spread`].
    pub fn strategy(mut self, strategy: Strategy) -> PoolBuilder {
        self.strategy = strategy;
        self
    }

    /// Name of the threads, followed by their number; default "shard". The kernel shows 15 bytes of it.
    pub fn name(mut self, name: impl Into<String>) -> PoolBuilder {
        self.name = name.into();
        self
    }

    /// How each executor and its stack are made; default [`LocalExecutor::builder`]. Its name and placement are the pool's to give.
    pub fn executor(mut self, builder: Builder) -> PoolBuilder {
        self.executor = builder;
        self
    }

    /// Starts the shards: each calls `make` on its own thread when all of them are there, and runs the future to its end.
    ///
    /// # Errors
    /// When one of them cannot be had; those that had started end without calling `make`.
    pub fn start<M, F>(self, make: M) -> Result<ExecutorPool<F::Output>, PoolError>
    where
        M: Fn(Shard) -> F + Clone + Send + 'static,
        F: Future,
        F::Output: Send + 'static,
    {
        let shards = match self.shards {
            Some(shards) => shards,
            None => placement::allowed_cpus().map_err(PoolError::Affinity)?.len(),
        };
        if shards == 0 {
            return Err(PoolError::NoShards);
        }
        let plan = placement::plan(&self.strategy, shards).map_err(PoolError::Affinity)?;
        let mut threads = Vec::with_capacity(shards);
        let mut starts: Vec<SyncSender<Arc<[RemoteHandle]>>> = Vec::with_capacity(shards);
        // Whatever fails on the way: without their start, which is dropped on return, those that wait for it end.
        for (index, cpus) in plan.shards.into_iter().enumerate() {
            let (start, started) = mpsc::sync_channel(1);
            let make = make.clone();
            let run = move || async move {
                let remotes = started.recv().ok()?;
                Some(make(Shard { index, remotes }).await)
            };
            let builder = self.executor.clone().name(format!("{}-{index}", self.name));
            threads.push(builder.spawn_on(cpus, run).map_err(|error| of_shard(index, error))?);
            starts.push(start);
        }
        let remotes: Arc<[RemoteHandle]> = threads.iter().map(|thread| thread.remote().clone()).collect();
        for start in starts {
            let _ = start.send(Arc::clone(&remotes)); // a shard that is gone tells so when it is joined
        }
        Ok(ExecutorPool { threads, remotes, warnings: plan.warnings })
    }
}

fn of_shard(shard: usize, error: SpawnError) -> PoolError {
    match error {
        SpawnError::Affinity(source) => PoolError::Affinity(source),
        SpawnError::Thread(source) => PoolError::Thread { shard, source },
        SpawnError::Executor(source) => PoolError::Executor { shard, source },
    }
}

/// Executors on threads of their own. Dropping it lets them run on.
#[must_use = "the shards' results, and their panics, come with `join`"]
pub struct ExecutorPool<T> {
    /// Their result is None in a pool that did not start, which nobody joins.
    threads: Vec<ExecutorThread<Option<T>>>,
    remotes: Arc<[RemoteHandle]>,
    warnings: Vec<Warning>,
}

impl<T> ExecutorPool<T> {
    /// The defaults, to be changed.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// The shards by number, for work from outside.
    pub fn remotes(&self) -> &[RemoteHandle] {
        &self.remotes
    }

    /// What of the wish for CPUs could not be granted; empty when all was.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Waits for all shards; their results by number. One that panicked or broke keeps none of the others.
    pub fn join(self) -> Vec<Result<T, ShardError>> {
        let joined = self.threads.into_iter().map(ExecutorThread::join);
        joined.map(|result| result.map(|output| output.expect("a pool has started all its shards"))).collect()
    }
}

impl<T> fmt::Debug for ExecutorPool<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ExecutorPool")
            .field("shards", &self.threads.len())
            .field("warnings", &self.warnings)
            .finish()
    }
}
