//! What other threads have of an executor: a place to leave things in, and the right to wake it.
//!
//! An inbox holds no task, no waker and no ring, so whoever keeps one keeps nothing of the executor alive. Its owner closes it: then the
//! signal is gone at once, however many others still hold the inbox, and what they bring is given back.
//!
//! Sleep protocol. The owner: state := SLEEPING; look once more; sleep; state := AWAKE. The others: put in; state := NOTIFIED; signal if
//! it was SLEEPING. Both sides swap the same word sequentially consistent, after the write that the other must not miss: whoever comes
//! second sees the first. So no wake is lost, and at most one signal is raised for a sleep.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard};

const AWAKE: u8 = 0;
const SLEEPING: u8 = 1;
const NOTIFIED: u8 = 2;

/// How the owner's sleep is ended.
pub(crate) trait Signal {
    fn raise(&self);
}

#[derive(Debug)]
pub(crate) struct Inbox<T, S> {
    state: AtomicU8,
    /// Something may be in `mail`: saves the owner the lock.
    has_mail: AtomicBool,
    mail: Mutex<Mail<T>>,
    /// None when closed. Raised under its lock, and taken under it: never is a signal raised whose descriptor was given back.
    signal: Mutex<Option<S>>,
}

#[derive(Debug)]
struct Mail<T> {
    items: Vec<T>,
    is_closed: bool,
}

impl<T, S: Signal> Inbox<T, S> {
    pub(crate) fn new(signal: S) -> Inbox<T, S> {
        Inbox {
            state: AtomicU8::new(AWAKE),
            has_mail: AtomicBool::new(false),
            mail: Mutex::new(Mail { items: Vec::new(), is_closed: false }),
            signal: Mutex::new(Some(signal)),
        }
    }

    /// Puts an item in and wakes the owner. Gives the item back when the inbox is closed.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        {
            let mut mail = lock(&self.mail);
            if mail.is_closed {
                return Err(item);
            }
            mail.items.push(item);
            self.has_mail.store(true, Ordering::Release);
        }
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        if self.state.swap(NOTIFIED, Ordering::SeqCst) == SLEEPING
            && let Some(signal) = &*lock(&self.signal)
        {
            signal.raise();
        }
    }

    /// The owner: moves what is there behind what `items` has.
    pub(crate) fn take(&self, items: &mut Vec<T>) {
        if self.has_mail.load(Ordering::Acquire) {
            let mut mail = lock(&self.mail);
            self.has_mail.store(false, Ordering::Release);
            items.append(&mut mail.items);
        }
    }

    /// The owner, before it sleeps. False: something has come, and it must not.
    pub(crate) fn may_sleep(&self) -> bool {
        self.state.swap(SLEEPING, Ordering::SeqCst);
        let may = !self.has_mail.load(Ordering::SeqCst);
        if !may {
            self.awake();
        }
        may
    }

    /// The owner, after it has slept.
    pub(crate) fn awake(&self) {
        self.state.swap(AWAKE, Ordering::SeqCst);
    }

    /// The owner: takes no more, and gives the signal back. What is left is the caller's.
    pub(crate) fn close(&self) -> Vec<T> {
        let left = {
            let mut mail = lock(&self.mail);
            mail.is_closed = true;
            mem::take(&mut mail.items)
        };
        let signal = lock(&self.signal).take();
        drop(signal);
        left
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
