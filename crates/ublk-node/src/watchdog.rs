//! Keeps the deadlines of requests that JavaScript has: one thread per process, for all queues.
//!
//! It only looks and kicks: the queue's owner answers, for nobody else may commit. An owner that does not react is blocked in a synchronous
//! handler, which JavaScript is told. While no queue has requests the thread sleeps without a timer; a queue that gets busy wakes it. Before
//! it sleeps it tells the queues that were busy to rest: they give the memory of their buffers back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::{Duration, Instant};

use ublk_executor::clock;

use crate::events::NativeEvent;
use crate::memory::store_load_fence;
use crate::session::SharedQueue;

/// A deadline is kept to an eighth of its length, within these limits.
const SHORTEST_ROUND: Duration = Duration::from_millis(50);
const LONGEST_ROUND: Duration = Duration::from_secs(1);

/// An owner that does not react to a kick for so long is stuck.
const REACTION_LIMIT: Duration = Duration::from_secs(1);
/// Rounds while a kick is not answered.
const KICKED_ROUND: Duration = Duration::from_millis(200);

static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());
static BUSY: Condvar = Condvar::new();
static IS_ASLEEP: AtomicBool = AtomicBool::new(false);

struct Watched {
    queue: Weak<SharedQueue>,
    last_activity: u32,
    kicked: Option<Instant>,
    is_told: bool,
    /// Had requests since it was told to rest.
    is_awake: bool,
}

/// Begins to watch a queue.
pub(crate) fn watch(queue: &Arc<SharedQueue>) {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        // Without it handlers have no deadline, and everything else works: no reason to fail.
        let _ = std::thread::Builder::new().name("ublk-watchdog".into()).spawn(run);
    });
    let last_activity = queue.activity.load(Ordering::Relaxed);
    watched().push(Watched {
        queue: Arc::downgrade(queue),
        last_activity,
        kicked: None,
        is_told: false,
        is_awake: false,
    });
}

/// Ends it.
pub(crate) fn forget(queue: &Arc<SharedQueue>) {
    watched().retain(|watched| !std::ptr::eq(watched.queue.as_ptr(), Arc::as_ptr(queue)));
}

/// Called by a queue's owner after it has published requests and a full fence.
#[inline]
pub(crate) fn requests_published() {
    if IS_ASLEEP.load(Ordering::Relaxed) {
        wake();
    }
}

#[cold]
fn wake() {
    let _watched = watched(); // the thread is either before its last look, or waits
    BUSY.notify_one();
}

fn run() {
    let mut watched = watched();
    loop {
        IS_ASLEEP.store(true, Ordering::Relaxed);
        store_load_fence();
        while !watched.iter().any(Watched::has_news) {
            watched = BUSY.wait(watched).unwrap_or_else(PoisonError::into_inner);
        }
        IS_ASLEEP.store(false, Ordering::Relaxed);
        // A queue with requests now and then shall not wake this thread each time: it stays up until a whole round saw nothing.
        let mut is_active = true;
        while is_active {
            let round = watched.iter().map(Watched::round).min().unwrap_or(LONGEST_ROUND);
            watched = BUSY.wait_timeout(watched, round).unwrap_or_else(PoisonError::into_inner).0;
            let now_ticks = clock::ticks();
            is_active = false;
            for queue in watched.iter_mut() {
                is_active |= queue.look(now_ticks);
            }
        }
        watched.iter_mut().for_each(Watched::rest);
    }
}

impl Watched {
    /// Also a request that was answered meanwhile: else each quick one would come here to wake a thread that sleeps on.
    fn has_news(&self) -> bool {
        let is_news =
            |queue: Arc<SharedQueue>| queue.activity.load(Ordering::Relaxed) != self.last_activity || queue.is_busy();
        self.queue.upgrade().is_some_and(is_news)
    }

    fn rest(&mut self) {
        if let Some(queue) = self.queue.upgrade()
            && std::mem::take(&mut self.is_awake)
        {
            queue.may_rest.store(true, Ordering::Release);
            queue.wake();
        }
    }

    fn round(&self) -> Duration {
        match (self.kicked, self.queue.upgrade()) {
            (Some(_), _) => KICKED_ROUND,
            (None, Some(queue)) => (queue.deadline / 8).clamp(SHORTEST_ROUND, LONGEST_ROUND),
            (None, None) => LONGEST_ROUND,
        }
    }

    /// Kicks an owner with overdue requests; true while the queue has, or had, something to do.
    fn look(&mut self, now_ticks: u64) -> bool {
        let Some(queue) = self.queue.upgrade() else { return false };
        match self.kicked {
            Some(kicked) if queue.is_overdue.load(Ordering::Acquire) => {
                if kicked.elapsed() >= REACTION_LIMIT && !self.is_told {
                    self.is_told = true;
                    tell_stuck(&queue);
                }
            }
            _ => {
                self.kicked = None;
                self.is_told = false;
                if queue.has_older_than(now_ticks) {
                    self.kicked = Some(Instant::now());
                    queue.is_overdue.store(true, Ordering::Release);
                    queue.wake();
                }
            }
        }
        let activity = queue.activity.load(Ordering::Relaxed);
        let was_active = std::mem::replace(&mut self.last_activity, activity) != activity;
        self.is_awake |= was_active;
        was_active || queue.is_busy()
    }
}

fn tell_stuck(queue: &SharedQueue) {
    if let Some(session) = queue.session.upgrade()
        && let Some(device) = session.device.upgrade()
    {
        device.events.call(NativeEvent::queue_stuck(queue.id));
    }
}

fn watched() -> MutexGuard<'static, Vec<Watched>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}
