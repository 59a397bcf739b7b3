//! A queue between tasks of one executor: many senders, one receiver, bounded.
//!
//! Invariant: an item in the queue, and a sender that may put one in, holds one of `capacity` permits. So senders wait in a semaphore, with
//! its fairness and its order of cancellation, and the queue itself knows the receiver's waker alone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::semaphore::{Permit, Semaphore};
use crate::channel::SendError;
use crate::spsc::{PopError, PushError};

/// Makes a queue for at most `capacity` items between tasks of one executor.
///
/// # Panics
/// When `capacity` is 0 or exceeds `isize::MAX`.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!((1..=EVERYBODY).contains(&capacity), "a queue for {capacity} items: it must be 1 to {EVERYBODY}");
    let shared = Rc::new(Shared {
        items: RefCell::default(),
        room: Semaphore::new(capacity),
        senders: Cell::new(1),
        is_closed: Cell::new(false),
        receiver: RefCell::default(),
    });
    (Sender { shared: Rc::clone(&shared) }, Receiver { shared })
}

/// Permits that let in all who wait, and whoever comes later.
const EVERYBODY: usize = isize::MAX as usize;

/// The receiver takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the receiver is gone")]
pub struct ReceiverGone;

struct Shared<T> {
    items: RefCell<VecDeque<(T, Permit)>>,
    room: Semaphore,
    senders: Cell<usize>,
    /// By the receiver.
    is_closed: Cell<bool>,
    /// The receiver, when it waits.
    receiver: RefCell<Option<Waker>>,
}

impl<T> Shared<T> {
    fn put(&self, item: T, permit: Permit) {
        self.items.borrow_mut().push_back((item, permit));
        self.wake_receiver();
    }

    fn wake_receiver(&self) {
        let waker = self.receiver.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Senders give their items back from now on, those that wait too.
    fn close(&self) {
        if !self.is_closed.replace(true) {
            self.room.add(EVERYBODY);
        }
    }
}

/// An end that sends; clones send into the same queue. When the last one is dropped the queue is closed: the receiver still gets what was
/// sent.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

/// The end that receives. Dropping it closes the queue, and drops what was sent and not received.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

assert_not_impl!(Sender<u64>, Send);
assert_not_impl!(Receiver<u64>, Send);
assert_not_impl!(Receiver<u64>, Clone);

/// Room for one item, kept free for its owner, who counts as a sender; dropping it gives it to the next.
#[must_use = "dropping it gives the room to the next sender"]
pub struct Slot<T> {
    permit: Permit,
    sender: Sender<T>,
}

impl<T> Sender<T> {
    /// Sends, and waits while the queue is full; senders are served in the order in which they came.
    ///
    /// Cancel-safe, but the item goes with the future: whoever must keep it awaits [`Sender::reserve`] instead.
    ///
    /// # Errors
    /// The item, when the receiver is gone.
    pub async fn send(&self, item: T) -> Result<(), SendError<T>> {
        match self.reserve().await {
            Ok(slot) => slot.send(item),
            Err(ReceiverGone) => Err(SendError(item)),
        }
    }

    /// Waits for room for one item. Cancel-safe: whoever stops waiting leaves the queue of senders and holds nobody up.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub async fn reserve(&self) -> Result<Slot<T>, ReceiverGone> {
        let permit = self.shared.room.acquire(1).await;
        if self.is_closed() {
            return Err(ReceiverGone);
        }
        Ok(Slot { permit, sender: self.clone() })
    }

    /// Sends if there is room and nobody waits for it, without waiting.
    ///
    /// # Errors
    /// The item: [`PushError::Full`], or [`PushError::Closed`] when the receiver is gone.
    pub fn try_send(&self, item: T) -> Result<(), PushError<T>> {
        if self.is_closed() {
            return Err(PushError::Closed(item));
        }
        match self.shared.room.try_acquire(1) {
            Some(permit) => {
                self.shared.put(item, permit);
                Ok(())
            }
            None => Err(PushError::Full(item)),
        }
    }

    /// The receiver is gone, or takes nothing more.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed.get()
    }
}

impl<T> Slot<T> {
    /// Sends, without waiting.
    ///
    /// # Errors
    /// The item, when the receiver has gone meanwhile.
    pub fn send(self, item: T) -> Result<(), SendError<T>> {
        if self.sender.is_closed() {
            return Err(SendError(item));
        }
        self.sender.shared.put(item, self.permit);
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// The next item; waits for it. None: all senders are gone, or [`Receiver::close`] was called, and everything sent was received.
    /// Cancel-safe: nothing is lost.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|context| match self.try_recv() {
            Ok(item) => Poll::Ready(Some(item)),
            Err(PopError::Closed) => Poll::Ready(None),
            Err(PopError::Empty) => {
                let old = self.shared.receiver.replace(Some(context.waker().clone()));
                drop(old);
                Poll::Pending
            }
        })
        .await
    }

    /// The next item if there is one, without waiting.
    ///
    /// # Errors
    /// [`PopError::Empty`], or [`PopError::Closed`] when nothing can come any more.
    pub fn try_recv(&mut self) -> Result<T, PopError> {
        let first = self.shared.items.borrow_mut().pop_front();
        match first {
            Some((item, permit)) => {
                drop(permit); // wakes a sender, with nothing borrowed
                Ok(item)
            }
            None if self.shared.senders.get() == 0 || self.shared.is_closed.get() => Err(PopError::Closed),
            None => Err(PopError::Empty),
        }
    }

    /// Lets nobody send from now on; what was sent before can still be received.
    pub fn close(&mut self) {
        self.shared.close();
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.shared.senders.set(self.shared.senders.get() + 1);
        Sender { shared: Rc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.senders.set(self.shared.senders.get() - 1);
        if self.shared.senders.get() == 0 {
            self.shared.wake_receiver();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.close();
        let (items, waker) = (self.shared.items.take(), self.shared.receiver.take());
        drop((items, waker)); // with nothing borrowed: destructors may come back
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sender").field("is_closed", &self.is_closed()).finish()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Receiver").field("queued", &self.shared.items.borrow().len()).finish()
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Slot")
    }
}
