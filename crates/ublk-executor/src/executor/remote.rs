//! Work for an executor from other threads, and its result.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::spawn_local;
use super::task::{Message, TaskInbox};
use crate::reply::{Answer, Gone, reply};
use crate::sync::Arc;

/// Starts tasks on an executor from any thread. Cheap to clone; keeps nothing of the executor alive.
#[derive(Clone)]
pub struct RemoteHandle {
    inbox: Arc<TaskInbox>,
}

/// The other executor has ended, or the task panicked there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the executor that was to do it has ended, or the task panicked")]
pub struct RemoteGone;

impl RemoteHandle {
    pub(super) fn new(inbox: &Arc<TaskInbox>) -> RemoteHandle {
        RemoteHandle { inbox: Arc::clone(inbox) }
    }

    /// Calls `make` on the executor's thread and runs the future there to its end, also when nobody waits for it; the future itself need not
    /// be `Send`. An executor that has ended drops `make`, here.
    pub fn spawn<M, F>(&self, make: M) -> RemoteJoin<F::Output>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let (reply, answer) = reply();
        let run = move || {
            let future = make();
            // Refused by an executor that is closing: the reply is dropped with the future.
            if let Ok(task) = spawn_local(async move { reply.send(future.await) }) {
                task.detach();
            }
        };
        drop(self.inbox.push(Message::Run(Box::new(run))));
        RemoteJoin { answer }
    }

    /// Ends the executor's sleep, or keeps it from the next one: for owners that look at something of their own after each
    /// [`LocalExecutor::turn`](super::LocalExecutor::turn). After the executor's end nothing happens.
    pub fn wake(&self) {
        self.inbox.knock();
    }
}

impl fmt::Debug for RemoteHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RemoteHandle")
    }
}

/// The result of [`RemoteHandle::spawn`]. Dropping it lets the task run. Cancel-safe: a result that was not taken stays.
#[must_use = "whether it was done is known only to whoever awaits it"]
pub struct RemoteJoin<T> {
    answer: Answer<T>,
}

impl<T> Future for RemoteJoin<T> {
    type Output = Result<T, RemoteGone>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map_err(|Gone| RemoteGone)
    }
}

impl<T> fmt::Debug for RemoteJoin<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RemoteJoin")
    }
}
