//! Items that write down their drop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
