//! One run of a device whose queues are JavaScript's: from `prepare` to the last queue's end.
//!
//! Threads: queue owners (bridge.rs), operations, the watchdog and JavaScript's threads meet here; a request's way touches nothing but the
//! atomics of its [`SharedQueue`].

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ublk::queue::QueueStats;
use ublk::{CharDevice, Control, RemoteHandle};

use crate::error::NativeError;
use crate::events::NativeEvent;
use crate::lifecycle::DeviceState;
use crate::memory::QueueMemory;
use crate::{ops, watchdog};

/// What a queue's owner is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Serve.
    Serve,
    /// Answer everything EIO until all tags are aborted.
    Fail,
    /// Close the ring at once: the device is configured to wait for another server.
    Abandon,
}

/// What other threads may touch of a queue.
pub(crate) struct SharedQueue {
    pub(crate) id: u16,
    pub(crate) memory: QueueMemory,
    /// CPUs for its owner; empty means anywhere.
    pub(crate) cpus: Vec<usize>,
    /// Per tag: clock ticks at which JavaScript got its request, 0 when it has none.
    pub(crate) started_ticks: Box<[AtomicU64]>,
    /// Grows with every request published.
    pub(crate) activity: AtomicU32,
    /// Set by the watchdog, cleared by the owner: a request is past its deadline.
    pub(crate) is_overdue: AtomicBool,
    /// Set by the watchdog, cleared by the owner: there were no requests for a while.
    pub(crate) may_rest: AtomicBool,
    pub(crate) deadline_ticks: u64,
    pub(crate) deadline: Duration,
    pub(crate) session: Weak<Session>,
    order: AtomicU8,
    has_failed: AtomicBool,
    waker: OnceLock<RemoteHandle>,
    stats: OnceLock<Arc<QueueStats>>,
}

impl SharedQueue {
    pub(crate) fn new(
        id: u16,
        memory: QueueMemory,
        cpus: Vec<usize>,
        depth: u16,
        deadline: Duration,
        session: Weak<Session>,
    ) -> SharedQueue {
        let deadline_ns = deadline.as_nanos() as f64;
        SharedQueue {
            id,
            memory,
            cpus,
            started_ticks: (0..depth).map(|_| AtomicU64::new(0)).collect(),
            activity: AtomicU32::new(0),
            is_overdue: AtomicBool::new(false),
            may_rest: AtomicBool::new(false),
            deadline_ticks: (deadline_ns / ublk_executor::clock::nanoseconds_per_tick()) as u64,
            deadline,
            session,
            order: AtomicU8::new(0),
            has_failed: AtomicBool::new(false),
            waker: OnceLock::new(),
            stats: OnceLock::new(),
        }
    }

    /// What the owner is to do now; it looks once per turn.
    #[inline]
    pub(crate) fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Fail,
            _ => Order::Abandon,
        }
    }

    /// Wakes the owner out of its ring.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    /// True if any request of this queue was begun so long ago.
    pub(crate) fn has_older_than(&self, now_ticks: u64) -> bool {
        self.started_ticks.iter().any(|started| {
            let started = started.load(Ordering::Relaxed);
            started != 0 && now_ticks.wrapping_sub(started) as i64 > self.deadline_ticks as i64
        })
    }

    /// True while JavaScript has a request of this queue.
    pub(crate) fn is_busy(&self) -> bool {
        self.started_ticks.iter().any(|started| started.load(Ordering::Relaxed) != 0)
    }

    fn give_order(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.wake();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    NotOpened,
    Open,
    Gone,
}

/// One run of a device.
pub(crate) struct Session {
    pub(crate) device_id: u32,
    pub(crate) queues: Vec<Arc<SharedQueue>>,
    pub(crate) device: Weak<DeviceState>,
    control: Control,
    leaves_device: bool,
    char_device: Mutex<Option<Arc<CharDevice>>>,
    phases: Mutex<Vec<Phase>>,
    changed: Condvar,
    has_failed: AtomicBool,
    was_asked_to_stop: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Session {
    /// `leaves_device`: with recovery, failure leaves the device to the next server.
    pub(crate) fn new(
        device: &Arc<DeviceState>,
        control: Control,
        char_device: Arc<CharDevice>,
        queues: impl FnOnce(&Weak<Session>) -> Vec<Arc<SharedQueue>>,
    ) -> Arc<Session> {
        Arc::new_cyclic(|session| {
            let queues = queues(session);
            Session {
                device_id: device.id,
                phases: Mutex::new(vec![Phase::NotOpened; queues.len()]),
                queues,
                device: Arc::downgrade(device),
                control,
                leaves_device: device.leaves_device,
                char_device: Mutex::new(Some(char_device)),
                changed: Condvar::new(),
                has_failed: AtomicBool::new(false),
                was_asked_to_stop: AtomicBool::new(false),
                threads: Mutex::default(),
            }
        })
    }

    /// The char device, for an owner that opens its queue; counts the queue as open.
    pub(crate) fn open_queue(&self, id: u16) -> Result<Arc<CharDevice>, NativeError> {
        let refuse = |problem| Err(NativeError::invalid_state(self.device_id, problem));
        let mut phases = self.phases();
        let Some(char_device) = lock(&self.char_device).clone() else {
            return refuse("is not being served any more");
        };
        match phases.get_mut(usize::from(id)) {
            Some(phase @ Phase::NotOpened) if !self.was_asked_to_stop() => {
                *phase = Phase::Open;
                Ok(char_device)
            }
            Some(_) => refuse("has had this queue opened already, or is being stopped"),
            None => refuse("has no such queue"),
        }
    }

    /// The queue's ring serves: its owner can be woken, its numbers read, its deadlines watched.
    pub(crate) fn queue_serves(&self, id: u16, waker: RemoteHandle, stats: Arc<QueueStats>) {
        let queue = &self.queues[usize::from(id)];
        let _ = queue.waker.set(waker);
        let _ = queue.stats.set(stats);
        watchdog::watch(queue);
        if queue.order() != Order::Serve {
            queue.wake(); // the order came before there was somebody to wake
        }
    }

    /// The queue's ring is closed. The last one ends the run, if nobody here asked for that.
    pub(crate) fn queue_gone(self: &Arc<Session>, id: u16) {
        watchdog::forget(&self.queues[usize::from(id)]);
        let mut phases = self.phases();
        phases[usize::from(id)] = Phase::Gone;
        let is_last = !phases.contains(&Phase::Open);
        drop(phases);
        self.changed.notify_all();
        if is_last && !self.was_asked_to_stop() {
            let session = Arc::clone(self);
            ops::detach(move || {
                if let Some(device) = session.device.upgrade() {
                    device.run_ended(&session);
                }
            });
        }
    }

    /// True when every queue's ring is open: START_DEV waits for all tags of all queues.
    pub(crate) fn is_complete(&self) -> bool {
        self.phases().iter().all(|phase| *phase == Phase::Open)
    }

    /// Waits until no ring is open; false when that takes too long.
    pub(crate) fn wait_gone(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut phases = self.phases();
        while phases.contains(&Phase::Open) {
            let left = until.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return false;
            }
            phases = self.changed.wait_timeout(phases, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(phases);
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join(); // its panic was caught and reported
        }
        true
    }

    /// Gives up the char device; no queue can be opened after this.
    pub(crate) fn close_char(&self) {
        lock(&self.char_device).take();
    }

    /// Threads to join at the end.
    pub(crate) fn add_thread(&self, thread: JoinHandle<()>) {
        lock(&self.threads).push(thread);
    }

    /// `stop` or `close` was called: what happens now is no news.
    pub(crate) fn ask_to_stop(&self) {
        self.was_asked_to_stop.store(true, Ordering::Release);
    }

    /// See [`Session::ask_to_stop`].
    pub(crate) fn was_asked_to_stop(&self) -> bool {
        self.was_asked_to_stop.load(Ordering::Acquire)
    }

    /// A queue cannot be served any more: its owner answers without JavaScript, and the device is stopped (or left, with recovery).
    pub(crate) fn fail(self: &Arc<Session>, id: u16, error: NativeError) {
        let Some(queue) = self.queues.get(usize::from(id)) else { return };
        queue.give_order(self.failure_order());
        if self.was_asked_to_stop() {
            return;
        }
        if !queue.has_failed.swap(true, Ordering::AcqRel)
            && let Some(device) = self.device.upgrade()
        {
            device.events.call(NativeEvent::queue_failed(id, error));
        }
        if self.has_failed.swap(true, Ordering::AcqRel) {
            return;
        }
        if self.leaves_device {
            self.order_all(Order::Abandon);
            return;
        }
        let session = Arc::clone(self);
        ops::detach(move || {
            let Some(device) = session.device.upgrade() else { return };
            if device.stop_device(&session.control).is_err() {
                session.order_all(Order::Abandon); // a ring that closes is the other way to end a device
            }
        });
    }

    /// Fails every queue, as when the process ends.
    pub(crate) fn fail_all(&self) {
        self.order_all(self.failure_order());
    }

    /// Counters of the queues that were opened.
    pub(crate) fn stats(&self) -> Vec<Arc<QueueStats>> {
        self.queues.iter().filter_map(|queue| queue.stats.get().cloned()).collect()
    }

    fn failure_order(&self) -> Order {
        if self.leaves_device { Order::Abandon } else { Order::Fail }
    }

    fn order_all(&self, order: Order) {
        for queue in &self.queues {
            queue.give_order(order);
        }
    }

    fn phases(&self) -> MutexGuard<'_, Vec<Phase>> {
        lock(&self.phases)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
