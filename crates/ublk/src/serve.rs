//! Queue threads for a native target: usually one per hardware queue, pinned where the kernel sends that queue's requests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;

use ublk_executor::placement::{Placement, pin_current_thread};

use crate::device::{CharDevice, Device, Preemption, Threads};
use crate::queue::native::{NativeQueue, panicked};
use crate::queue::{MAX_SLOTS, QueueStats, Slot, Stats};
use crate::target::Target;
use crate::{Error, RemoteHandle};

/// A thread's requests went into fail mode: it answers EIO until the device is stopped.
#[derive(Debug, Clone)]
pub struct QueueFailure {
    /// Number of the thread: that of the hardware queue where each has its own.
    pub queue: u16,
    /// What happened.
    pub reason: String,
}

/// What happens while nobody calls.
#[derive(Debug, Clone)]
pub enum ServeEvent {
    /// A queue cannot serve any more; stop the device.
    QueueFailed(QueueFailure),
    /// Something happened to the target that it can live with: a leg of a mirror has failed, or is in sync again.
    Warning(String),
    /// The last queue thread has ended, for whatever reason.
    Ended,
}

/// Hears of events, on a queue thread: it must not block.
pub type Observer = Arc<dyn Fn(ServeEvent) + Send + Sync>;

/// The running queue threads of a device.
pub struct Served {
    threads: Vec<JoinHandle<()>>,
    stats: Vec<Arc<QueueStats>>,
    wakers: Vec<RemoteHandle>,
    device: Weak<CharDevice>,
}

impl Served {
    /// Waits for the queue threads: after STOP_DEV, or when the device was stopped by somebody else.
    pub fn join(self) {
        for thread in self.threads {
            let _ = thread.join(); // its panic was caught and reported
        }
    }

    /// Has the queue threads end without STOP_DEV: the device is as after the death of its server. For a recovery that fails; `join` follows.
    pub fn give_up(&self) {
        if let Some(device) = self.device.upgrade() {
            device.give_up();
        }
        self.wakers.iter().for_each(RemoteHandle::wake);
    }

    /// False when every queue thread has ended.
    pub fn is_running(&self) -> bool {
        self.threads.iter().any(|thread| !thread.is_finished())
    }

    /// Counters and latencies so far, over all queues.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.stats)
    }
}

/// Opens the char device and starts a thread per queue; returns when every tag was fetched, so that START_DEV goes through.
///
/// # Errors
/// [`Error::Refused`] for a target that cannot serve the device's data path; those of [`Device::take_target`] for a device that is being recovered, of [`Device::open`] and of a queue's ring. Nothing keeps running then, and the char device is closed.
pub fn spawn_target(device: &mut Device, target: Arc<dyn Target>, observer: Observer) -> Result<Served, Error> {
    check_movement(device, target.as_ref())?;
    if device.is_recovering() {
        device.take_target(Some(target.as_ref()))?;
    }
    let char_device = device.open()?;
    let warn = Arc::clone(&observer);
    target.report_to(Box::new(move |message| warn(ServeEvent::Warning(message))));
    let spawned = spawn_all(device, &char_device, &target, &observer);
    drop(char_device);
    if spawned.is_err() && device.is_recovering() {
        device.give_up_recovery();
    } else if spawned.is_err() {
        device.close_char();
    }
    spawned
}

/// A target that never sees its data would acknowledge it all the same.
fn check_movement(device: &Device, target: &dyn Target) -> Result<(), Error> {
    if !device.buffers().is_zero_copy() || target.serves_zero_copy() {
        return Ok(());
    }
    let (mode, kind) = (device.buffers().name(), target.kind());
    Err(Error::Refused {
        id: device.id(),
        problem: format!("moves its data by {mode}, and {kind} needs it in the memory of its server"),
        hint: "Make it with the data path copy, get-data or user-copy, or serve it with a target that has its data in files.",
    })
}

fn spawn_all(
    device: &Device,
    char_device: &Arc<CharDevice>,
    target: &Arc<dyn Target>,
    observer: &Observer,
) -> Result<Served, Error> {
    let shares = deal_slots(char_device.queues(), char_device.depth(), device.spec().threads);
    let running = Arc::new(AtomicUsize::new(shares.len()));
    let (report, ready) = mpsc::channel();
    let mut threads = Vec::new();
    let mut failure = None;
    for (queue, slots) in (0..).zip(shares) {
        let cpus = device.queue_cpus(queue % char_device.queues());
        let worker = QueueThread {
            queue,
            keeps_nobody_waiting: target.answers_at_once() && is_beside_senders(device, &cpus, &slots),
            cpus,
            slots,
            device: Arc::clone(char_device),
            target: Arc::clone(target),
            observer: Arc::clone(observer),
            running: Arc::clone(&running),
        };
        let report = report.clone();
        let name = format!("ublk{}q{queue}", char_device.id());
        let spawned = std::thread::Builder::new().name(name).spawn(move || worker.run(report));
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(source) => {
                failure = Some(Error::Kernel { id: Some(char_device.id()), call: "clone", source });
                break;
            }
        }
    }
    drop(report);
    let mut opened = Vec::new();
    // Every thread says one thing, also one that panics; the channel closes after the last.
    for answer in ready {
        match answer {
            Ok(queue) => opened.push(queue),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    opened.sort_by_key(|queue| queue.id);
    let (stats, wakers) = opened.into_iter().map(|queue| (queue.stats, queue.waker)).unzip();
    let served = Served { threads, stats, wakers, device: Arc::downgrade(char_device) };
    match failure {
        None => Ok(served),
        Some(error) => {
            served.give_up();
            served.join();
            Err(error)
        }
    }
}

/// The slots of each thread: whole hardware queues in turn, or with `per_io` the tags of all of them in turn. The driver may have granted fewer
/// queues than were asked for; no thread is without any.
fn deal_slots(queues: u16, depth: u16, threads: Threads) -> Vec<Vec<Slot>> {
    let all = usize::from(queues) * usize::from(depth);
    let most = if threads.per_io { all } else { usize::from(queues) };
    let count = usize::from(threads.count.unwrap_or(queues)).max(all.div_ceil(MAX_SLOTS)).clamp(1, most);
    let mut shares = vec![Vec::new(); count];
    let slots = (0..queues).flat_map(|queue| (0..depth).map(move |tag| Slot { queue, tag }));
    for (index, slot) in slots.enumerate() {
        let thread = if threads.per_io { index } else { usize::from(slot.queue) };
        shares[thread % count].push(slot);
    }
    shares
}

/// Whether the requests of these slots all come from the one CPU that serves them.
fn is_beside_senders(device: &Device, cpus: &[usize], slots: &[Slot]) -> bool {
    let mut queues: Vec<u16> = slots.iter().map(|slot| slot.queue).collect();
    queues.dedup(); // they are dealt queue by queue
    cpus.len() == 1 && queues.into_iter().all(|queue| device.senders(queue).is_ok_and(|senders| senders == cpus))
}

/// A queue whose tags are fetched.
struct Opened {
    id: u16,
    stats: Arc<QueueStats>,
    waker: RemoteHandle,
}

struct QueueThread {
    queue: u16,
    cpus: Vec<usize>,
    /// On its CPU, without taking it: who waits for an answer has left that CPU.
    keeps_nobody_waiting: bool,
    slots: Vec<Slot>,
    device: Arc<CharDevice>,
    target: Arc<dyn Target>,
    observer: Observer,
    running: Arc<AtomicUsize>,
}

impl QueueThread {
    fn run(self, ready: mpsc::Sender<Result<Opened, Error>>) {
        let is_placed = prepare_queue_thread(&self.cpus);
        let yields = match self.device.options().preemption {
            Preemption::Auto => is_placed && self.keeps_nobody_waiting,
            Preemption::Always => false,
            Preemption::Never => true,
        };
        if yields {
            leave_the_cpu_to_others();
        }
        let id = self.queue;
        let opened = catch_unwind(AssertUnwindSafe(|| self.open()));
        match opened.unwrap_or_else(|panic| Err(panicked(&self.device, panic.as_ref()))) {
            Ok(mut queue) => {
                let _ = ready.send(Ok(Opened {
                    id,
                    stats: Arc::clone(queue.queue().stats()),
                    waker: queue.queue().waker(),
                }));
                drop(ready); // whoever waits for the others hears when the last of them is gone
                let report = |reason| (self.observer)(ServeEvent::QueueFailed(QueueFailure { queue: id, reason }));
                if let Err(error) = queue.serve(&report) {
                    report(error.to_string());
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
        drop(self.device);
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            (self.observer)(ServeEvent::Ended);
        }
    }

    fn open(&self) -> Result<NativeQueue, Error> {
        let mut queue = NativeQueue::open(&self.device, &self.slots, self.target.as_ref())?;
        queue.fetch_all()?;
        Ok(queue)
    }
}

/// Makes the calling thread fit to own a queue: placed, and marked as one whose memory allocations must not wait for
/// write-back (which may be waiting for this very device). False when it is on none of `cpus`: a wish, for outside of the cpuset the thread stays
/// where it may run.
pub fn prepare_queue_thread(cpus: &[usize]) -> bool {
    set_io_flusher();
    matches!(pin_current_thread(cpus), Ok(Placement::Pinned(_)))
}

/// PR_SET_IO_FLUSHER, which needs CAP_SYS_RESOURCE; without it, a device under memory pressure may stall, as with every other server.
#[allow(unsafe_code)]
fn set_io_flusher() {
    const PR_SET_IO_FLUSHER: libc::c_int = 57; // linux/prctl.h

    // SAFETY: this prctl takes plain numbers and changes a flag of the calling thread.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}

/// SCHED_BATCH: waking up takes the CPU from nobody. No right is needed; where a filter forbids the call, the thread is as all others are.
#[allow(unsafe_code)]
fn leave_the_cpu_to_others() {
    let parameters: libc::c_int = 0; // `struct sched_param` of the kernel: a priority, which this policy has not

    // SAFETY: the kernel reads one `struct sched_param`, which lives across the call, and changes the calling thread (0). The C library's own
    // function is not used: musl's always fails.
    unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const parameters) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deal(queues: u16, depth: u16, count: Option<u16>, per_io: bool) -> Vec<Vec<(u16, u16)>> {
        let shares = deal_slots(queues, depth, Threads { count, per_io });
        shares.iter().map(|share| share.iter().map(|slot| (slot.queue, slot.tag)).collect()).collect()
    }

    #[test]
    fn each_slot_is_dealt_once_and_no_thread_goes_empty() {
        for (queues, depth, count, per_io, threads) in [
            (1, 8, None, false, 1),
            (4, 8, None, false, 4),
            (4, 8, Some(3), false, 3),
            (2, 8, Some(5), false, 2), // two queues were granted of the five asked for
            (1, 8, Some(3), true, 3),
            (2, 2, Some(9), true, 4),
            (40, 4096, Some(1), false, 3), // more slots than a completion can name
        ] {
            let shares = deal(queues, depth, count, per_io);
            assert_eq!(shares.len(), threads, "{queues} queues, {count:?}, per io {per_io}");
            assert!(shares.iter().all(|share| !share.is_empty() && share.len() <= MAX_SLOTS));
            let mut all: Vec<_> = shares.concat();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), usize::from(queues) * usize::from(depth));
            assert_eq!(all.len(), shares.concat().len(), "a slot was dealt twice");
        }
    }

    #[test]
    fn queues_stay_whole_unless_asked_per_io() {
        assert_eq!(deal(3, 2, Some(2), false), [vec![(0, 0), (0, 1), (2, 0), (2, 1)], vec![(1, 0), (1, 1)]]);
        assert_eq!(deal(1, 4, Some(2), true), [vec![(0, 0), (0, 2)], vec![(0, 1), (0, 3)]]);
    }
}
