//! What other threads have of an executor: a place to leave things in, and the right to wake it.
//!
//! An inbox holds no task, no waker and no ring, so whoever keeps one keeps nothing of the executor alive. Its owner closes it: then the
//! signal is gone at once, however many others still hold the inbox, and what they bring is given back.
//!
//! Sleep protocol. The owner: state := SLEEPING; look once more; sleep; state := AWAKE. The others: put in; state := NOTIFIED; signal if
//! it was SLEEPING. Both sides swap the same word sequentially consistent, after the write that the other must not miss: whoever comes
//! second sees the first. So no wake is lost, and at most one signal is raised for a sleep.

use std::mem;

use crate::sync::{AtomicBool, AtomicU8, Mutex, MutexGuard, Ordering};

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

    /// Ends the owner's sleep, or keeps it from the next one, without an item.
    pub(crate) fn knock(&self) {
        {
            let _mail = lock(&self.mail);
            self.has_mail.store(true, Ordering::Release);
        }
        self.wake();
    }

    fn wake(&self) {
        if self.state.swap(NOTIFIED, Ordering::SeqCst) == SLEEPING
            && let Some(signal) = &*lock(&self.signal)
        {
            signal.raise();
        }
    }

    /// The owner: something has come, or somebody has knocked.
    #[inline]
    pub(crate) fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Acquire)
    }

    /// The owner: moves what is there behind what `items` has. False: nothing has come, and nobody has knocked.
    pub(crate) fn take(&self, items: &mut Vec<T>) -> bool {
        let has_mail = self.has_mail();
        if has_mail {
            let mut mail = lock(&self.mail);
            self.has_mail.store(false, Ordering::Release);
            items.append(&mut mail.items);
        }
        has_mail
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

    /// The owner: changes the signal, unless the inbox is closed.
    pub(crate) fn change_signal(&self, change: impl FnOnce(&mut S)) {
        if let Some(signal) = &mut *lock(&self.signal) {
            change(signal);
        }
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

#[cfg(all(test, loom))]
mod models {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;
    use loom::thread;

    use super::*;
    use crate::wake::{EventFd, Listener};

    fn inbox() -> (Arc<Inbox<usize, EventFd>>, Listener) {
        let signal = EventFd::new().unwrap();
        let listener = signal.sleeper();
        (Arc::new(Inbox::new(signal)), listener)
    }

    /// The owner's loop: takes `count` items, sleeping whenever there are none.
    fn take(inbox: &Inbox<usize, EventFd>, listener: &Listener, count: usize) -> Vec<usize> {
        let mut taken = Vec::new();
        loop {
            inbox.take(&mut taken);
            if taken.len() >= count {
                return taken;
            }
            if inbox.may_sleep() {
                listener.wait();
                inbox.awake();
            }
        }
    }

    #[test]
    fn no_push_is_slept_over() {
        loom::model(|| {
            let (inbox, listener) = inbox();
            let pushes = Arc::clone(&inbox);
            let pusher = thread::spawn(move || {
                pushes.push(1).unwrap();
                pushes.push(2).unwrap();
            });
            assert_eq!(take(&inbox, &listener, 2), [1, 2]);
            pusher.join().unwrap();
        });
    }

    #[test]
    fn no_knock_is_slept_over() {
        let mut checker = loom::model::Builder::new();
        checker.preemption_bound = Some(2);
        checker.check(|| {
            let (inbox, listener) = inbox();
            let order = Arc::new(AtomicUsize::new(0));
            let (knocks, orders) = (Arc::clone(&inbox), Arc::clone(&order));
            let knocker = thread::spawn(move || {
                knocks.knock(); // for an earlier order, which the owner has seen
                orders.store(1, Ordering::Release);
                knocks.knock();
            });
            // The owner's loop: looks at the order after each turn, and sleeps in a turn that nobody has knocked before.
            while order.load(Ordering::Acquire) == 0 {
                if !inbox.take(&mut Vec::new()) && inbox.may_sleep() {
                    listener.wait();
                    inbox.awake();
                }
            }
            knocker.join().unwrap();
        });
    }

    #[test]
    fn no_push_of_two_is_slept_over() {
        let mut checker = loom::model::Builder::new();
        checker.preemption_bound = Some(3);
        checker.check(|| {
            let (inbox, listener) = inbox();
            let pushers = [1, 2].map(|item| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || inbox.push(item).unwrap())
            });
            let mut taken = take(&inbox, &listener, 2);
            taken.sort_unstable();
            assert_eq!(taken, [1, 2]);
            pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
        });
    }

    #[test]
    fn a_push_into_an_inbox_that_closes_is_taken_or_given_back() {
        loom::model(|| {
            let (inbox, listener) = inbox();
            let pushes = Arc::clone(&inbox);
            let pusher = thread::spawn(move || pushes.push(7));
            // The owner was about to sleep: the push raises the signal, which must be there still.
            let mut taken = Vec::new();
            if inbox.may_sleep() {
                inbox.awake();
            }
            inbox.take(&mut taken);
            taken.extend(inbox.close());
            assert!(listener.is_closed(), "the signal outlives the closing");
            match pusher.join().unwrap() {
                Ok(()) => assert_eq!(taken, [7]),
                Err(item) => assert!(item == 7 && taken.is_empty()),
            }
            assert_eq!(inbox.push(8), Err(8));
        });
    }

    /// As above, with an owner that is asleep when it is to close: what was pushed before is taken, in order, and nothing twice.
    #[test]
    fn pushes_of_two_into_an_inbox_that_closes_are_taken_once_or_given_back() {
        let mut checker = loom::model::Builder::new();
        checker.preemption_bound = Some(3);
        checker.check(|| {
            let (inbox, listener) = inbox();
            let pushers = [1, 2].map(|item| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || inbox.push(item).is_ok())
            });
            let mut taken = take(&inbox, &listener, 1);
            taken.extend(inbox.close());
            let pushed = pushers.map(|pusher| pusher.join().unwrap());
            taken.sort_unstable();
            let expected: Vec<usize> = (1..=2).filter(|item| pushed[item - 1]).collect();
            assert_eq!(taken, expected);
        });
    }
}
