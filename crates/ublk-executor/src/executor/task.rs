//! A task and what wakes it. The executor owns the task; a waker owns neither it nor anything of it, but a number and an inbox.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc as CellArc; // `Wake` asks for std's
use std::task::{Wake, Waker};

use super::class::Class;
use super::context;
use super::join::Ended;
use super::locals::Locals;
use crate::inbox::Inbox;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::wake::EventFd;

slotmap::new_key_type! {
    /// Number of a task; the null key stands for the future of `block_on`. Used again after two thousand million others in the same
    /// place: whoever keeps one longer than its task must know that it has ended.
    pub(crate) struct TaskKey;
}

/// What other threads leave for an executor.
pub(crate) enum Message {
    Wake(TaskKey),
    Run(Box<dyn FnOnce() + Send>),
}

pub(crate) type TaskInbox = Inbox<Message, EventFd>;

/// One task, from `spawn` to its end.
pub(super) struct Task {
    /// None while it is polled.
    pub(super) body: Option<Body>,
    pub(super) class: Class,
    pub(super) name: &'static str,
    /// It was cancelled while it was polled.
    pub(super) is_cancelled: bool,
    /// Whoever waits for its end.
    pub(super) ended: Rc<dyn Ended>,
}

/// What a poll needs.
pub(super) struct Body {
    pub(super) future: Pin<Box<dyn Future<Output = ()>>>,
    pub(super) cell: CellArc<WakeCell>,
    pub(super) waker: Waker,
    pub(super) locals: Locals,
}

impl Body {
    pub(super) fn new(future: Pin<Box<dyn Future<Output = ()>>>, cell: WakeCell) -> Body {
        let cell = CellArc::new(cell);
        Body { future, waker: Waker::from(CellArc::clone(&cell)), cell, locals: None }
    }
}

/// What a [`Waker`] holds.
pub(super) struct WakeCell {
    inbox: Arc<TaskInbox>,
    key: TaskKey,
    /// The task is on its way to be polled; another wake adds nothing.
    is_queued: AtomicBool,
}

impl WakeCell {
    pub(super) fn new(inbox: &Arc<TaskInbox>, key: TaskKey, is_queued: bool) -> WakeCell {
        WakeCell { inbox: Arc::clone(inbox), key, is_queued: AtomicBool::new(is_queued) }
    }

    /// It is in a queue, or on the way there.
    pub(super) fn is_queued(&self) -> bool {
        self.is_queued.load(Ordering::Acquire)
    }

    /// Right before a poll: from now on a wake queues again. What was written before earlier wakes is seen by the poll.
    pub(super) fn begin_poll(&self) {
        self.is_queued.swap(false, Ordering::AcqRel);
    }
}

impl Wake for WakeCell {
    fn wake(self: CellArc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &CellArc<Self>) {
        if self.is_queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let is_here = context::with(|core| match core {
            Some(core) if Arc::ptr_eq(&core.inbox, &self.inbox) => {
                core.make_ready(self.key);
                true
            }
            _ => false,
        });
        if !is_here {
            // Refused after the executor's end: there is nothing left to wake.
            let _ = self.inbox.push(Message::Wake(self.key));
        }
    }
}
