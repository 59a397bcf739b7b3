//! A gate that work passes, and that closes when all of it has left: for an orderly end.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Counts who is inside. Clones are the same gate.
#[derive(Clone, Default)]
pub struct Gate {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    inside: Cell<usize>,
    is_closed: Cell<bool>,
    /// Those who wait for the last one to leave.
    waiting: RefCell<Vec<Waker>>,
}

/// The gate takes nobody in any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gate is closed")]
pub struct GateClosed;

impl Gate {
    /// Open, with nobody inside.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Enters; leaves when the pass is dropped.
    ///
    /// # Errors
    /// After [`Gate::close`] was called.
    pub fn enter(&self) -> Result<Pass, GateClosed> {
        if self.shared.is_closed.get() {
            return Err(GateClosed);
        }
        self.shared.inside.set(self.shared.inside.get() + 1);
        Ok(Pass { shared: Rc::clone(&self.shared) })
    }

    /// How many are inside.
    pub fn inside(&self) -> usize {
        self.shared.inside.get()
    }

    /// Takes nobody in from now on, awaited or not; ready when the last one has left. Cancel-safe, and more than one may wait.
    pub fn close(&self) -> CloseGate {
        self.shared.is_closed.set(true);
        CloseGate { shared: Rc::clone(&self.shared) }
    }
}

/// Somebody inside.
#[must_use = "dropping it leaves the gate"]
pub struct Pass {
    shared: Rc<Shared>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.shared.inside.set(self.shared.inside.get() - 1);
        if self.shared.inside.get() == 0 {
            for waker in self.shared.waiting.take() {
                waker.wake();
            }
        }
    }
}

/// See [`Gate::close`].
#[must_use = "futures do nothing unless awaited"]
pub struct CloseGate {
    shared: Rc<Shared>,
}

impl Future for CloseGate {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.shared.inside.get() == 0 {
            return Poll::Ready(());
        }
        let mut waiting = self.shared.waiting.borrow_mut();
        if !waiting.iter().any(|known| known.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_closed = self.shared.is_closed.get();
        formatter.debug_struct("Gate").field("inside", &self.inside()).field("is_closed", &is_closed).finish()
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pass")
    }
}

impl fmt::Debug for CloseGate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CloseGate")
    }
}
