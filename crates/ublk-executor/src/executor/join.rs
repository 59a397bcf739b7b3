//! The end of a task, for whoever waits for it.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::class::Class;
use super::core::Core;
use super::task::TaskKey;

/// Why a task has no output.
pub enum JoinError {
    /// It was cancelled, or its executor ended.
    Cancelled,
    /// It panicked with this.
    Panicked(Box<dyn Any + Send>),
}

impl fmt::Debug for JoinError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Cancelled => formatter.write_str("the task was cancelled"),
            JoinError::Panicked(payload) => write!(formatter, "the task panicked: {}", message_of(payload.as_ref())),
        }
    }
}

impl std::error::Error for JoinError {}

pub(crate) fn message_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(not a text)")
}

/// Where a task leaves its output. Holds no task, and is emptied by whoever takes from it.
pub(super) struct JoinCell<T> {
    state: RefCell<State<T>>,
}

enum State<T> {
    Running(Option<Waker>),
    Ended(Result<T, JoinError>),
    Taken,
}

impl<T> JoinCell<T> {
    pub(super) fn new() -> Rc<JoinCell<T>> {
        Rc::new(JoinCell { state: RefCell::new(State::Running(None)) })
    }

    /// The first end counts.
    pub(super) fn end(&self, result: Result<T, JoinError>) {
        let before = {
            let mut state = self.state.borrow_mut();
            if !matches!(*state, State::Running(_)) {
                return;
            }
            mem::replace(&mut *state, State::Ended(result))
        };
        if let State::Running(Some(waker)) = before {
            waker.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Result<T, JoinError>> {
        let mut state = self.state.borrow_mut();
        let old = match &mut *state {
            State::Running(waker) => match waker {
                Some(known) if known.will_wake(context.waker()) => None,
                other => other.replace(context.waker().clone()),
            },
            _ => match mem::replace(&mut *state, State::Taken) {
                State::Ended(result) => return Poll::Ready(result),
                _ => panic!("a JoinHandle was polled after it was ready"),
            },
        };
        drop(state);
        drop(old);
        Poll::Pending
    }

    fn take(&self) -> Option<T> {
        match mem::replace(&mut *self.state.borrow_mut(), State::Taken) {
            State::Ended(result) => result.ok(),
            _ => None,
        }
    }
}

/// A [`JoinCell`] whose output type is not known.
pub(super) trait Ended {
    fn fail(&self, error: JoinError);
}

impl<T> Ended for JoinCell<T> {
    fn fail(&self, error: JoinError) {
        self.end(Err(error));
    }
}

/// A task that was spawned. Awaiting it gives the output; dropping it cancels the task. Not `Send`.
///
/// Cancel-safe: an output that was not taken stays for the next await.
#[must_use = "dropping the handle cancels the task; `detach` lets it run"]
pub struct JoinHandle<T> {
    core: Weak<Core>,
    key: TaskKey,
    cell: Rc<JoinCell<T>>,
}

impl<T> JoinHandle<T> {
    pub(super) fn new(core: &Rc<Core>, key: TaskKey, cell: Rc<JoinCell<T>>) -> JoinHandle<T> {
        JoinHandle { core: Rc::downgrade(core), key, cell }
    }

    /// Lets the task run, to its end or to that of the executor; its output is dropped.
    pub fn detach(mut self) {
        self.core = Weak::new();
    }

    /// Cancels the task: when this returns, its future has been dropped. The output, if it had ended before.
    ///
    /// A task that cancels itself is dropped when its poll returns.
    pub fn cancel(self) -> Option<T> {
        self.drop_task();
        self.cell.take()
    }

    /// Cancels the task when first polled; ready when its future has been dropped. The output, if it had ended before, or ended in the poll
    /// in which it was cancelled. Buffers of operations that were under way stay with the executor until the kernel is done with them.
    ///
    /// Differs from [`JoinHandle::cancel`] for a task that is being polled: it is waited for. A task that does this to itself is dropped at
    /// the await. Cancel-safe: dropping it cancels the task too.
    pub async fn cancel_and_wait(self) -> Option<T> {
        self.drop_task();
        poll_fn(|context| match self.is_finished() {
            true => Poll::Ready(self.cell.take()), // None if it was awaited to its end before
            false => self.cell.poll(context).map(Result::ok),
        })
        .await
    }

    /// From its next wake on the task runs in this class.
    pub fn set_class(&self, class: Class) {
        if let Some(core) = self.core.upgrade() {
            core.set_class(self.key, class);
        }
    }

    /// The task has ended, or was cancelled.
    pub fn is_finished(&self) -> bool {
        !matches!(*self.cell.state.borrow(), State::Running(_))
    }

    fn drop_task(&self) {
        if !self.is_finished()
            && let Some(core) = self.core.upgrade()
        {
            core.cancel(self.key);
        }
    }
}

impl<T> Future for JoinHandle<T> {
    /// An error when the task was cancelled by its executor's end, or panicked.
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.cell.poll(context)
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        self.drop_task();
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("JoinHandle").field("task", &self.key).field("is_finished", &self.is_finished()).finish()
    }
}
