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
    Wake(CellArc<WakeCell>),
    Run(Box<dyn FnOnce() + Send>),
}

pub(crate) type TaskInbox = Inbox<Message, EventFd>;

/// One task, from `spawn` to its end.
pub(super) struct Task {
    /// None while it is polled.
    pub(super) body: Option<Body>,
    pub(super) class: Class,
    pub(super) name: &'static str,
    /// It is in a queue; another wake adds nothing.
    pub(super) is_queued: bool,
    /// It was cancelled while it was polled.
    pub(super) is_cancelled: bool,
    /// Whoever waits for its end.
    pub(super) ended: Rc<dyn Ended>,
}

impl Task {
    /// From now on a wake queues it again. None: it is being polled already, further up on the stack.
    pub(super) fn begin_poll(&mut self) -> Option<Body> {
        self.is_queued = false;
        self.body.take()
    }
}

/// What a poll needs.
pub(super) struct Body {
    pub(super) future: Pin<Box<dyn Future<Output = ()>>>,
    pub(super) waker: Waker,
    pub(super) locals: Locals,
}

impl Body {
    pub(super) fn new(future: Pin<Box<dyn Future<Output = ()>>>, cell: WakeCell) -> Body {
        Body { future, waker: Waker::from(CellArc::new(cell)), locals: None }
    }
}

/// What a [`Waker`] holds. A wake on the executor's own thread touches the task's flag and nothing atomic; one from elsewhere is a message.
pub(crate) struct WakeCell {
    inbox: Arc<TaskInbox>,
    key: TaskKey,
    /// A message is under way; another one adds nothing.
    is_sent: AtomicBool,
}

impl WakeCell {
    pub(super) fn new(inbox: &Arc<TaskInbox>, key: TaskKey) -> WakeCell {
        WakeCell { inbox: Arc::clone(inbox), key, is_sent: AtomicBool::new(false) }
    }

    /// The message has come: from now on a wake sends another. What was written before earlier wakes is seen after this.
    pub(super) fn receive(&self) -> TaskKey {
        self.is_sent.swap(false, Ordering::AcqRel);
        self.key
    }
}

impl Wake for WakeCell {
    fn wake(self: CellArc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &CellArc<Self>) {
        let is_here = context::with(|core| match core {
            Some(core) if Arc::ptr_eq(&core.inbox, &self.inbox) => {
                core.make_ready(self.key);
                true
            }
            _ => false,
        });
        if !is_here && !self.is_sent.swap(true, Ordering::AcqRel) {
            // Refused after the executor's end: there is nothing left to wake.
            let _ = self.inbox.push(Message::Wake(CellArc::clone(self)));
        }
    }
}
