//! A value that many tasks read or one changes, across awaits.
//!
//! Invariant: a reader holds one of all permits, the writer every one. So whoever has a guard may borrow the value, and waiting, fairness
//! and cancellation are those of the semaphore.

use std::cell::{Ref, RefCell, RefMut};
use std::fmt;
use std::ops::{Deref, DerefMut};

use super::semaphore::{Permit, Semaphore};

/// As many readers at once as the value can count.
const ALL: usize = isize::MAX as usize;

/// A value for tasks of one executor to share, with guards that may be held across awaits.
///
/// Fair: first come, first served. A writer waits for the readers before it, and readers that come later wait for the writer: so neither
/// starves, and a task that reads must not read again while it has a guard.
pub struct RwLock<T> {
    permits: Semaphore,
    value: RefCell<T>,
}

impl<T> RwLock<T> {
    /// Locked by nobody.
    pub fn new(value: T) -> RwLock<T> {
        RwLock { permits: Semaphore::new(ALL), value: RefCell::new(value) }
    }

    /// Waits for its turn to read. Cancel-safe: whoever stops waiting leaves the queue and holds nobody up.
    pub async fn read(&self) -> ReadGuard<'_, T> {
        let permit = self.permits.acquire(1).await;
        ReadGuard { value: self.value.borrow(), _permit: permit }
    }

    /// Waits for its turn to change the value, alone. Cancel-safe: whoever stops waiting leaves the queue and holds nobody up.
    pub async fn write(&self) -> WriteGuard<'_, T> {
        let permit = self.permits.acquire(ALL).await;
        WriteGuard { value: self.value.borrow_mut(), _permit: permit }
    }

    /// Reads if nobody writes and nobody waits. None otherwise.
    pub fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        let permit = self.permits.try_acquire(1)?;
        Some(ReadGuard { value: self.value.borrow(), _permit: permit })
    }

    /// Writes if nobody reads, writes or waits. None otherwise.
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        let permit = self.permits.try_acquire(ALL)?;
        Some(WriteGuard { value: self.value.borrow_mut(), _permit: permit })
    }

    /// The value, to whoever has the lock alone.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

/// Reads the value; dropping it unlocks.
#[must_use = "dropping it unlocks"]
pub struct ReadGuard<'a, T> {
    // The order matters: whoever is woken by the permit's drop must find the value free.
    value: Ref<'a, T>,
    _permit: Permit,
}

/// Changes the value; dropping it unlocks.
#[must_use = "dropping it unlocks"]
pub struct WriteGuard<'a, T> {
    // As above.
    value: RefMut<'a, T>,
    _permit: Permit,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.try_borrow();
        let value: &dyn fmt::Debug = match &value {
            Ok(value) => value,
            Err(_) => &format_args!("<being written>"),
        };
        formatter.debug_struct("RwLock").field("value", value).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}

impl<T: fmt::Debug> fmt::Debug for WriteGuard<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}
