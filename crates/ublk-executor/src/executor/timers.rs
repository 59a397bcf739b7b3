//! Timers of one executor: futures that become ready at a time. They are fired by the timeout of the ring's wait, not by operations.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::context;
use super::core::Core;

/// As long as an `Instant` certainly has room for: thirty years.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// When, and a number that tells timers of the same moment apart.
type TimerKey = (Instant, u64);

#[derive(Debug, Default)]
pub(super) struct Timers {
    waiting: BTreeMap<TimerKey, Waker>,
    next: u64,
}

impl Timers {
    fn insert(&mut self, at: Instant, waker: Waker) -> TimerKey {
        self.next += 1;
        let key = (at, self.next);
        self.waiting.insert(key, waker);
        key
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Time until the first timer; zero when it is due.
    pub(super) fn wait(&self) -> Option<Duration> {
        let (at, _) = self.waiting.first_key_value()?.0;
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// Takes the wakers of what is due.
    pub(super) fn take_due(&mut self, wakers: &mut Vec<Waker>) {
        if self.waiting.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= now
        {
            wakers.push(first.remove());
        }
    }

    pub(super) fn take_all(&mut self) -> BTreeMap<TimerKey, Waker> {
        std::mem::take(&mut self.waiting)
    }
}

/// Ready when its time has come; see [`sleep`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    until: Instant,
    /// The timer, and whose it is: a future may be moved from one executor of a thread to another.
    armed: Option<(Weak<Core>, TimerKey)>,
}

/// Waits, at least so long. Cancel-safe: dropping it takes the timer back.
///
/// # Panics
/// When it is polled outside of an executor.
pub fn sleep(duration: Duration) -> Sleep {
    let now = Instant::now();
    sleep_until(now.checked_add(duration).unwrap_or(now + FOR_EVER))
}

/// Waits until then; is ready at once when that has passed. Cancel-safe.
///
/// # Panics
/// When it is polled outside of an executor.
pub fn sleep_until(until: Instant) -> Sleep {
    Sleep { until, armed: None }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let core = context::current().expect("a timer is polled outside of an executor");
        self.disarm();
        if self.until <= Instant::now() {
            return Poll::Ready(());
        }
        let key = core.timers.borrow_mut().insert(self.until, context.waker().clone());
        self.armed = Some((Rc::downgrade(&core), key));
        Poll::Pending
    }
}

impl Sleep {
    fn disarm(&mut self) {
        if let Some((core, key)) = self.armed.take()
            && let Some(core) = core.upgrade()
        {
            let waker = core.timers.borrow_mut().waiting.remove(&key);
            drop(waker); // outside of the borrow: a foreign waker may do anything when it goes
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}
