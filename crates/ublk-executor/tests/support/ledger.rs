//! Items that write down their drop, and the ends of a queue that is full of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(loom)]
use loom::thread;
#[cfg(not(loom))]
use std::thread;
use ublk_executor::spsc::{Consumer, PopError, Producer, PushError};

/// Counts the drops of each item. Uses std's atomics under loom too: they are the test's, not the model's.
pub(crate) struct Ledger(Arc<[AtomicUsize]>);

/// An item of the ledger.
pub(crate) struct Item {
    pub(crate) id: usize,
    ledger: Arc<[AtomicUsize]>,
}

impl Ledger {
    /// A ledger for items `0..count`.
    pub(crate) fn new(count: usize) -> Ledger {
        Ledger((0..count).map(|_| AtomicUsize::new(0)).collect())
    }

    /// Makes the item. Each may be made once.
    pub(crate) fn item(&self, id: usize) -> Item {
        Item { id, ledger: Arc::clone(&self.0) }
    }

    /// How often each item was dropped.
    pub(crate) fn drops(&self) -> Vec<usize> {
        self.0.iter().map(|count| count.load(Ordering::SeqCst)).collect()
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        self.ledger[self.id].fetch_add(1, Ordering::SeqCst);
    }
}

/// Pushes `0..count`, waiting while the queue is full.
pub(crate) fn push_all(producer: &mut Producer<Item>, ledger: &Ledger, count: usize) {
    for id in 0..count {
        let mut item = ledger.item(id);
        while let Err(refused) = producer.push(item) {
            assert!(matches!(refused, PushError::Full(_)), "item {id}: {refused}");
            item = refused.into_item();
            thread::yield_now();
        }
    }
}

/// Ids of everything that comes until the producer is gone.
pub(crate) fn pop_all(consumer: &mut Consumer<Item>) -> Vec<usize> {
    let mut ids = Vec::new();
    loop {
        match consumer.pop() {
            Ok(item) => ids.push(item.id),
            Err(PopError::Empty) => thread::yield_now(),
            Err(PopError::Closed) => return ids,
        }
    }
}
