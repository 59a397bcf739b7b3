//! A bounded queue from one thread to one other: a ring of slots, without locks and without system calls.
//!
//! Thread: each end belongs to one thread at a time. An end may move to another thread (`Send`), but two threads can
//! never hold the same end: it is neither `Clone` nor `Sync`, and pushing and popping take `&mut self`.
//!
//! Invariant: `head` is the index of the next item to pop and `tail` that of the next to push. Both only count up, and
//! wrap with `usize`. The slots of `head..tail`, at most `capacity` of them, hold items; all others are empty. The
//! consumer alone moves `head`, the producer alone moves `tail`; each moves it after it is done with the slot (Release),
//! and uses a slot after it has seen the other's move (Acquire).
//!
//! The indices are apart from the slots (`State`, `Slots`), so that whoever watches a queue (is it closed, how full
//! is it) can hold the first without a way to the items, and without keeping them alive.
//!
//! Nothing here waits. A caller that finds the queue full or empty decides itself what to do.

use std::cell::Cell;
use std::fmt;
use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;

use crate::sync::{Arc, AtomicBool, AtomicUsize, Ordering, UnsafeCell};

/// The end that pushes. Dropping it closes the queue: the consumer still gets what was pushed.
pub struct Producer<T> {
    state: Arc<State>,
    slots: Arc<Slots<T>>,
    /// The value of `state.tail`, which only this end changes.
    tail: usize,
    /// `state.head` when last looked at. The true one is the same or later, so at least this much room is free.
    head_seen: usize,
    _not_sync: NotSync,
}

/// The end that pops. Dropping it closes the queue: the producer's next push is refused.
pub struct Consumer<T> {
    state: Arc<State>,
    slots: Arc<Slots<T>>,
    /// The value of `state.head`, which only this end changes.
    head: usize,
    /// `state.tail` when last looked at. The true one is the same or later, so at least these items are there.
    tail_seen: usize,
    _not_sync: NotSync,
}

// A second handle to one end is two threads in one slot: an item lost, torn or dropped twice.
assert_not_impl!(Producer<u64>, Sync);
assert_not_impl!(Producer<u64>, Clone);
assert_not_impl!(Consumer<u64>, Sync);
assert_not_impl!(Consumer<u64>, Clone);
// Items travel with an end.
assert_not_impl!(Producer<std::rc::Rc<()>>, Send);
assert_not_impl!(Consumer<std::rc::Rc<()>>, Send);
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Producer<Cell<u64>>>();
    is_send::<Consumer<Cell<u64>>>();
};

/// Takes no room and makes the type around it not `Sync`. Not in a `PhantomData`: the compiler would name that too where
/// it refuses to share an end, and quote std's source where it is installed.
type NotSync = Cell<()>;

/// Why a push was refused. The item comes back.
#[derive(thiserror::Error)]
pub enum PushError<T> {
    /// `capacity` items wait. There is room after the consumer's next pop.
    #[error("the queue is full")]
    Full(T),
    /// The consumer was dropped: no push will succeed any more.
    #[error("the queue's consumer is gone")]
    Closed(T),
}

impl<T> PushError<T> {
    /// The item that was not pushed.
    pub fn into_item(self) -> T {
        match self {
            PushError::Full(item) | PushError::Closed(item) => item,
        }
    }
}

/// Names the reason and not the item, which need not be printable.
impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PushError::Full(_) => "Full(..)",
            PushError::Closed(_) => "Closed(..)",
        })
    }
}

/// Why there was nothing to pop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PopError {
    /// No item waits; the producer may push another.
    #[error("the queue is empty")]
    Empty,
    /// The producer was dropped and every item it pushed has been popped: none will follow.
    #[error("the queue is empty and its producer is gone")]
    Closed,
}

/// Makes a queue for at most `capacity` items and returns its two ends, the only ones it will ever have.
///
/// Exactly `capacity` items fit. Memory is taken here and never again: the next power of two of slots, one item each.
///
/// # Panics
/// `capacity` is 0, or its slots are more than memory can address.
pub fn channel<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    channel_from(capacity, 0)
}

/// A queue whose indices begin at `start`, so that tests see them wrap.
fn channel_from<T>(capacity: usize, start: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity > 0, "a queue needs room for one item at least");
    let slot_count = capacity.checked_next_power_of_two().expect("a queue's slots are counted in usize");
    let state = Arc::new(State {
        capacity,
        producer_gone: AtomicBool::new(false),
        consumer_gone: AtomicBool::new(false),
        head: CachePadded::new(AtomicUsize::new(start)),
        tail: CachePadded::new(AtomicUsize::new(start)),
    });
    let slots = Arc::new(Slots {
        slots: (0..slot_count).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
        state: Arc::clone(&state),
    });
    (
        Producer {
            state: Arc::clone(&state),
            slots: Arc::clone(&slots),
            tail: start,
            head_seen: start,
            _not_sync: NotSync::new(()),
        },
        Consumer { state, slots, head: start, tail_seen: start, _not_sync: NotSync::new(()) },
    )
}

impl<T> Producer<T> {
    /// Appends `item`.
    ///
    /// # Errors
    /// [`PushError::Full`]: `capacity` items wait. [`PushError::Closed`]: the consumer is gone, full or not. Both give
    /// the item back. A push at the moment in which the consumer is dropped may succeed; the item is then dropped with
    /// this end.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), PushError<T>> {
        if self.is_closed() {
            return Err(PushError::Closed(item));
        }
        if self.tail.wrapping_sub(self.head_seen) == self.state.capacity {
            self.head_seen = self.state.head.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == self.state.capacity {
                return Err(PushError::Full(item));
            }
        }
        // SAFETY: fewer than `capacity` slots lie in `head_seen..tail`, so that of `tail` is outside of it. It is empty:
        // the Acquire load that gave `head_seen` came after the consumer was done with all before. It is this thread's:
        // only `channel` makes a producer, one per queue; it cannot be cloned or shared, and `&mut self` is held. The
        // consumer comes here after the store below.
        unsafe { self.slots.put(self.tail, item) };
        self.tail = self.tail.wrapping_add(1);
        self.state.tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Items for which there is room. The consumer can only make it more: so many pushes succeed, unless it is dropped.
    pub fn free(&self) -> usize {
        self.state.capacity - self.tail.wrapping_sub(self.state.head.load(Ordering::Acquire))
    }

    /// Most items that can wait at a time, as given to [`channel`].
    pub fn capacity(&self) -> usize {
        self.state.capacity
    }

    /// Whether the consumer was dropped. Once true it stays true.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.state.consumer_gone.load(Ordering::Acquire)
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest item.
    ///
    /// # Errors
    /// [`PopError::Empty`]: nothing waits. [`PopError::Closed`]: nothing waits and the producer is gone; what it pushed
    /// before has all been popped.
    #[inline]
    pub fn pop(&mut self) -> Result<T, PopError> {
        if self.head == self.tail_seen {
            // In this order: a drop of the producer that is seen here came after its last push, which is then seen below.
            let is_closed = self.is_closed();
            self.tail_seen = self.state.tail.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return Err(if is_closed { PopError::Closed } else { PopError::Empty });
            }
        }
        // SAFETY: `head` lies in `head..tail_seen`, so its slot holds an item, and the Acquire load that gave `tail_seen`
        // came after the producer wrote it. It is this thread's: only `channel` makes a consumer, one per queue; it
        // cannot be cloned or shared, and `&mut self` is held. It is taken once, as `head` moves on with nothing between
        // that could panic, and the producer comes here after the store below.
        let item = unsafe { self.slots.take(self.head) };
        self.head = self.head.wrapping_add(1);
        self.state.head.store(self.head, Ordering::Release);
        Ok(item)
    }

    /// Items that wait. The producer can only make it more: so many pops succeed, even if it is dropped.
    pub fn len(&self) -> usize {
        self.state.tail.load(Ordering::Acquire).wrapping_sub(self.head)
    }

    /// Whether no item waits at this moment.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Most items that can wait at a time, as given to [`channel`].
    pub fn capacity(&self) -> usize {
        self.state.capacity
    }

    /// Whether the producer was dropped. Once true it stays true. Items may still wait: [`Consumer::pop`] tells.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.state.producer_gone.load(Ordering::Acquire)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // Release: whoever sees this sees all pushes.
        self.state.producer_gone.store(true, Ordering::Release);
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        // The items that wait stay in their slots until the last end goes: the producer may be pushing at this moment.
        self.state.consumer_gone.store(true, Ordering::Release);
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (capacity, free, is_closed) = (self.capacity(), self.free(), self.is_closed());
        write!(f, "Producer {{ capacity: {capacity}, free: {free}, is_closed: {is_closed} }}")
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (capacity, len, is_closed) = (self.capacity(), self.len(), self.is_closed());
        write!(f, "Consumer {{ capacity: {capacity}, len: {len}, is_closed: {is_closed} }}")
    }
}

/// What both ends tell each other. Each index has its cache lines to itself, as one thread writes it all the time; the
/// rest is written once at most.
struct State {
    capacity: usize,
    producer_gone: AtomicBool,
    consumer_gone: AtomicBool,
    head: CachePadded<AtomicUsize>,
    tail: CachePadded<AtomicUsize>,
}

/// The items, held by the two ends alone.
struct Slots<T> {
    /// A power of two of them, so that an index finds its slot across the wrap of `usize`.
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    state: Arc<State>,
}

// SAFETY: through a shared reference the slots are reached by `put` and `take` only, whose callers hold the slot alone
// (see there). An item is so moved from thread to thread and never seen by two: Send is enough.
unsafe impl<T: Send> Sync for Slots<T> {}

impl<T> Slots<T> {
    fn slot(&self, index: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[index & (self.slots.len() - 1)]
    }

    /// Moves `item` into the slot of `index`.
    ///
    /// # Safety
    /// The slot is empty, and no other thread uses it during the call.
    unsafe fn put(&self, index: usize, item: T) {
        self.slot(index).with_mut(|slot| {
            // SAFETY: the pointer is that of a live cell, and its content is the caller's for the length of the call.
            unsafe { (*slot).write(item) };
        });
    }

    /// Moves the item out of the slot of `index`, which is empty then.
    ///
    /// # Safety
    /// The slot holds an item, and no other thread uses it during the call.
    unsafe fn take(&self, index: usize) -> T {
        self.slot(index).with_mut(|slot| {
            // SAFETY: as in `put`; the caller vouches for the item, and treats the slot as empty from now on.
            unsafe { (*slot).assume_init_read() }
        })
    }
}

/// Runs when the last end goes, and drops what nobody popped.
impl<T> Drop for Slots<T> {
    fn drop(&mut self) {
        // Both ends have let go of the slots, so these are their last words.
        let mut left = Leftover {
            head: self.state.head.load(Ordering::Acquire),
            tail: self.state.tail.load(Ordering::Acquire),
            slots: self,
        };
        left.drop_items();
    }
}

/// The items that nobody popped. Its own drop goes on when that of one item panics.
struct Leftover<'a, T> {
    slots: &'a mut Slots<T>,
    head: usize,
    tail: usize,
}

impl<T> Leftover<'_, T> {
    fn drop_items(&mut self) {
        while self.head != self.tail {
            let index = self.head;
            self.head = self.head.wrapping_add(1); // first: an item whose drop panics is not dropped again
            // SAFETY: the slots of `head..tail` hold items, and each is taken once, as `head` has moved on. No other
            // thread is there: `slots` is borrowed mutably from the drop of the last `Arc`.
            drop(unsafe { self.slots.take(index) });
        }
    }
}

impl<T> Drop for Leftover<'_, T> {
    fn drop(&mut self) {
        self.drop_items();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[test]
    fn order_and_room_survive_the_wrap_of_the_indices() {
        for capacity in 1..=9 {
            for before_wrap in 0..=capacity {
                let (mut producer, mut consumer) = channel_from(capacity, usize::MAX - before_wrap);
                let mut model = VecDeque::new();
                for item in 0..4 * capacity {
                    while model.len() < capacity {
                        producer.push(item).unwrap();
                        model.push_back(item);
                        assert_eq!((producer.free(), consumer.len()), (capacity - model.len(), model.len()));
                    }
                    assert!(matches!(producer.push(item), Err(PushError::Full(_))));
                    for _ in 0..=item % capacity {
                        assert_eq!(consumer.pop().ok(), model.pop_front());
                    }
                }
            }
        }
    }

    #[test]
    fn leftover_items_across_the_wrap_are_dropped() {
        let item = std::sync::Arc::new(());
        let (mut producer, consumer) = channel_from(3, usize::MAX - 1);
        for _ in 0..3 {
            producer.push(item.clone()).unwrap();
        }
        drop((producer, consumer));
        assert_eq!(std::sync::Arc::strong_count(&item), 1);
    }

    #[test]
    fn each_index_has_its_own_cache_lines() {
        let head = std::mem::offset_of!(State, head);
        let tail = std::mem::offset_of!(State, tail);
        let gone = std::mem::offset_of!(State, consumer_gone);
        let lines = [head, tail, gone].map(|offset| offset / 64);
        assert!(lines[0] != lines[1] && lines[0] != lines[2] && lines[1] != lines[2], "{lines:?}");
    }
}
