//! A queue between two executors that can be waited on: [`crate::spsc`] with back-pressure, and close in both directions.
//!
//! Wait protocol, the same on both sides. Who waits: leaves its waker, sets the event's flag, tries once more. Who has made something
//! possible: takes the flag, and wakes only if it was set. Both swap the flag after the write that the other must not miss, as in
//! `inbox`; so no wake is lost, and a queue that nobody waits on costs one swap an item.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use crate::spsc::{self, Consumer, PopError, Producer, PushError};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};

/// The receiver is gone: the item, unsent.
pub struct SendError<T>(pub T);

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the receiver is gone")
    }
}

impl<T> std::error::Error for SendError<T> {}

/// Makes a queue for at most `capacity` items between two tasks, on one executor or on two.
///
/// # Panics
/// As [`spsc::channel`]: `capacity` is 0, or more than memory can address.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = spsc::channel(capacity);
    let (items, room) = (Arc::new(Event::new()), Arc::new(Event::new()));
    let sender = Sender { producer, items: Notifies(Arc::clone(&items)), room: Arc::clone(&room) };
    (sender, Receiver { consumer, room: Notifies(room), items })
}

/// The end that sends. Dropping it closes the queue: the receiver still gets what was sent.
pub struct Sender<T> {
    // The order matters: whoever is woken by the event's drop must find the end gone.
    producer: Producer<T>,
    items: Notifies,
    room: Arc<Event>,
}

/// The end that receives. Dropping it closes the queue: nothing more can be sent. What was sent and not received is dropped with
/// the later of the two ends; take it out with [`Receiver::try_recv`] before, if a sender waits for its being dropped.
pub struct Receiver<T> {
    consumer: Consumer<T>,
    room: Notifies,
    items: Arc<Event>,
}

assert_not_impl!(Sender<u64>, Sync);
assert_not_impl!(Sender<u64>, Clone);
assert_not_impl!(Receiver<u64>, Sync);
assert_not_impl!(Receiver<u64>, Clone);
assert_not_impl!(Sender<std::rc::Rc<()>>, Send);
assert_not_impl!(Receiver<std::rc::Rc<()>>, Send);

impl<T> Sender<T> {
    /// Sends, and waits while the queue is full. A future that is dropped while it waits has not sent; its item is dropped with it.
    ///
    /// # Errors
    /// The item, when the receiver is gone.
    pub async fn send(&mut self, item: T) -> Result<(), SendError<T>> {
        let mut item = Some(item);
        poll_fn(|context| self.poll_send(context, &mut item)).await
    }

    /// Sends what is in `unsent`; while there is no room it stays there, and the context is woken for another try.
    pub(crate) fn poll_send(
        &mut self,
        context: &Context<'_>,
        unsent: &mut Option<T>,
    ) -> Poll<Result<(), SendError<T>>> {
        let mut item = unsent.take().expect("a send was polled after it was ready");
        for attempt in [Attempt::First, Attempt::AfterRegistering] {
            match self.try_send(item) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(PushError::Closed(back)) => return Poll::Ready(Err(SendError(back))),
                Err(PushError::Full(back)) => item = back,
            }
            if attempt == Attempt::First {
                self.room.expect(context.waker());
            }
        }
        *unsent = Some(item);
        Poll::Pending
    }

    /// Sends if there is room, without waiting.
    ///
    /// # Errors
    /// As [`Producer::push`].
    pub fn try_send(&mut self, item: T) -> Result<(), PushError<T>> {
        self.producer.push(item)?;
        self.items.0.notify();
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// The next item; waits for it. None: the sender is gone, and everything it sent was received. Cancel-safe: nothing is lost.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    pub(crate) fn poll_recv(&mut self, context: &Context<'_>) -> Poll<Option<T>> {
        for attempt in [Attempt::First, Attempt::AfterRegistering] {
            match self.try_recv() {
                Ok(item) => return Poll::Ready(Some(item)),
                Err(PopError::Closed) => return Poll::Ready(None),
                Err(PopError::Empty) => {}
            }
            if attempt == Attempt::First {
                self.items.expect(context.waker());
            }
        }
        Poll::Pending
    }

    /// The next item if there is one, without waiting.
    ///
    /// # Errors
    /// As [`Consumer::pop`].
    pub fn try_recv(&mut self) -> Result<T, PopError> {
        let item = self.consumer.pop()?;
        self.room.0.notify();
        Ok(item)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Attempt {
    First,
    AfterRegistering,
}

/// Something that one side waits for and the other brings about.
struct Event {
    is_awaited: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Event {
    fn new() -> Event {
        Event { is_awaited: AtomicBool::new(false), waker: Mutex::new(None) }
    }

    /// From now on `notify` wakes; the caller looks once more.
    fn expect(&self, waker: &Waker) {
        let old = self.swap_waker(Some(waker.clone()));
        self.is_awaited.swap(true, Ordering::SeqCst);
        drop(old);
    }

    fn notify(&self) {
        if self.is_awaited.swap(false, Ordering::SeqCst)
            && let Some(waker) = self.swap_waker(None)
        {
            waker.wake();
        }
    }

    fn swap_waker(&self, waker: Option<Waker>) -> Option<Waker> {
        let mut slot = self.waker.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        std::mem::replace(&mut *slot, waker)
    }
}

/// An event that comes for a last time when its cause is gone.
struct Notifies(Arc<Event>);

impl Drop for Notifies {
    fn drop(&mut self) {
        self.0.notify();
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Receiver")
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::future::block_on;
    use loom::thread;

    use super::*;

    /// Sends `0..count` through a queue of one; each side sleeps whenever it must. A lost wake is a deadlock. Every order would take a minute:
    /// those with three preemptions do.
    fn check(count: usize) {
        let mut checker = loom::model::Builder::new();
        checker.preemption_bound = Some(3);
        checker.check(move || {
            let (mut sender, mut receiver) = channel(1);
            let sending = thread::spawn(move || {
                block_on(async {
                    for item in 0..count {
                        sender.send(item).await.unwrap();
                    }
                });
            });
            block_on(async {
                for item in 0..count {
                    assert_eq!(receiver.recv().await, Some(item));
                }
                assert_eq!(receiver.recv().await, None);
            });
            sending.join().unwrap();
        });
    }

    #[test]
    fn one_item_and_the_end_are_received() {
        check(1);
    }

    #[test]
    fn a_full_queue_wakes_its_sender() {
        check(2);
    }

    #[test]
    fn a_receiver_that_waits_learns_that_the_sender_left() {
        check(0);
    }

    /// Both ends leave in the middle of it, in any order: nobody waits for ever, and each item is dropped once.
    #[test]
    fn ends_that_leave_at_once_lose_no_item_and_leave_nobody_waiting() {
        let mut checker = loom::model::Builder::new();
        checker.preemption_bound = Some(3);
        checker.check(|| {
            let items = [0, 1].map(std::sync::Arc::new);
            let sent = items.clone();
            let (mut sender, mut receiver) = channel(1);
            let sending = thread::spawn(move || {
                block_on(async {
                    for item in sent {
                        if sender.send(item).await.is_err() {
                            return;
                        }
                    }
                });
            });
            assert_eq!(block_on(receiver.recv()).as_deref(), Some(&0));
            drop(receiver);
            sending.join().unwrap();
            for item in items {
                assert_eq!(std::sync::Arc::strong_count(&item), 1, "item {item}");
            }
        });
    }

    #[test]
    fn a_sender_that_waits_learns_that_the_receiver_left() {
        loom::model(|| {
            let (mut sender, receiver) = channel(1);
            sender.try_send(1).unwrap();
            let leaves = thread::spawn(move || drop(receiver));
            // Before the receiver leaves the queue is full; it may also have left before.
            let sent = block_on(sender.send(2));
            assert_eq!(sent.unwrap_err().0, 2);
            leaves.join().unwrap();
        });
    }
}
