//! A number of permits that tasks take and give back, first come first served.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Limits how much is under way: requests, bytes. Clones share the permits.
///
/// Fair: who asks for much is not overtaken by those who ask for little later.
#[derive(Clone)]
pub struct Semaphore {
    shared: Rc<Shared>,
}

struct Shared {
    free: Cell<usize>,
    /// Those who wait, in the order in which they asked.
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
}

struct Waiter {
    wanted: usize,
    is_granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Semaphore {
    /// With so many permits free.
    pub fn new(permits: usize) -> Semaphore {
        Semaphore { shared: Rc::new(Shared { free: Cell::new(permits), waiting: RefCell::default() }) }
    }

    /// Permits that nobody has.
    pub fn free(&self) -> usize {
        self.shared.free.get()
    }

    /// Takes `permits`, and waits until it is this caller's turn and so many are free. Cancel-safe: whoever stops waiting leaves the queue, and
    /// what was granted to him goes back.
    ///
    /// For more than there ever will be it waits for ever.
    pub fn acquire(&self, permits: usize) -> Acquire {
        Acquire { shared: Rc::clone(&self.shared), wanted: permits, waiter: None }
    }

    /// Takes `permits` if they are free and nobody waits. None otherwise.
    pub fn try_acquire(&self, permits: usize) -> Option<Permit> {
        let is_first = self.shared.waiting.borrow().is_empty();
        (is_first && self.shared.take(permits)).then(|| Permit { shared: Rc::clone(&self.shared), permits })
    }

    /// Makes more of them.
    pub(super) fn add(&self, permits: usize) {
        self.shared.give_back(permits);
    }
}

impl Shared {
    fn take(&self, permits: usize) -> bool {
        match self.free.get().checked_sub(permits) {
            Some(left) => {
                self.free.set(left);
                true
            }
            None => false,
        }
    }

    fn give_back(&self, permits: usize) {
        self.free.set(self.free.get() + permits);
        self.grant();
    }

    /// Grants in turn what is free. Wakers are called when nothing is borrowed.
    fn grant(&self) {
        loop {
            let first = {
                let mut waiting = self.waiting.borrow_mut();
                match waiting.front() {
                    Some(first) if self.take(first.wanted) => waiting.pop_front(),
                    _ => None,
                }
            };
            let Some(first) = first else { return };
            first.is_granted.set(true);
            let waker = first.waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// See [`Semaphore::acquire`].
#[must_use = "futures do nothing unless awaited"]
pub struct Acquire {
    shared: Rc<Shared>,
    wanted: usize,
    /// None until the first poll, and after the last.
    waiter: Option<Rc<Waiter>>,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit> {
        let is_granted = match &self.waiter {
            Some(waiter) => waiter.is_granted.get(),
            None => self.shared.waiting.borrow().is_empty() && self.shared.take(self.wanted),
        };
        if is_granted {
            self.waiter = None;
            return Poll::Ready(Permit { shared: Rc::clone(&self.shared), permits: self.wanted });
        }
        let waiter = match &self.waiter {
            Some(waiter) => Rc::clone(waiter),
            None => {
                let wanted = self.wanted;
                let waiter = Rc::new(Waiter { wanted, is_granted: Cell::new(false), waker: RefCell::default() });
                self.shared.waiting.borrow_mut().push_back(Rc::clone(&waiter));
                self.waiter = Some(Rc::clone(&waiter));
                waiter
            }
        };
        let old = waiter.waker.replace(Some(context.waker().clone()));
        drop(old);
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else { return };
        if waiter.is_granted.get() {
            self.shared.give_back(self.wanted);
            return;
        }
        self.shared.waiting.borrow_mut().retain(|other| !Rc::ptr_eq(other, &waiter));
        // Those behind may have waited for this one only.
        self.shared.grant();
    }
}

/// Permits that are taken; dropping it gives them back.
#[must_use = "dropping it gives the permits back"]
pub struct Permit {
    shared: Rc<Shared>,
    permits: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.give_back(self.permits);
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.shared.waiting.borrow().len();
        formatter.debug_struct("Semaphore").field("free", &self.free()).field("waiting", &waiting).finish()
    }
}

impl fmt::Debug for Acquire {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Acquire").field("wanted", &self.wanted).finish()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Permit").field("permits", &self.permits).finish()
    }
}
