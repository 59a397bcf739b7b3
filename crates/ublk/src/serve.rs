//! Queue threads for a native target: one per queue, pinned where the kernel sends that queue's requests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use ublk_executor::placement::pin_current_thread;

use crate::device::{CharDevice, Device};
use crate::queue::native::{NativeQueue, panicked};
use crate::queue::{QueueStats, Stats};
use crate::target::Target;
use crate::{Error, control::Control};

/// A queue that went into fail mode: it answers EIO until the device is stopped.
#[derive(Debug, Clone)]
pub struct QueueFailure {
    /// Queue number.
    pub queue: u16,
    /// What happened.
    pub reason: String,
}

/// What happens while nobody calls.
#[derive(Debug, Clone)]
pub enum ServeEvent {
    /// A queue cannot serve any more; stop the device.
    QueueFailed(QueueFailure),
    /// The last queue thread has ended, for whatever reason.
    Ended,
}

/// Hears of events, on a queue thread: it must not block.
pub type Observer = Arc<dyn Fn(ServeEvent) + Send + Sync>;

/// The running queue threads of a device.
pub struct Served {
    threads: Vec<JoinHandle<()>>,
    stats: Vec<Arc<QueueStats>>,
}

impl Served {
    /// Waits for the queue threads: after STOP_DEV, or when the device was stopped by somebody else.
    pub fn join(self) {
        for thread in self.threads {
            let _ = thread.join(); // its panic was caught and reported
        }
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
/// Those of [`Device::open`] and of a queue's ring. Nothing keeps running then, and the char device is closed.
pub fn spawn_target(device: &mut Device, target: Arc<dyn Target>, observer: Observer) -> Result<Served, Error> {
    let char_device = device.open()?;
    let spawned = spawn_all(device, &char_device, &target, &observer);
    drop(char_device);
    if spawned.is_err() {
        device.close_char();
    }
    spawned
}

fn spawn_all(
    device: &Device,
    char_device: &Arc<CharDevice>,
    target: &Arc<dyn Target>,
    observer: &Observer,
) -> Result<Served, Error> {
    let running = Arc::new(AtomicUsize::new(usize::from(char_device.queues())));
    let (report, ready) = mpsc::channel();
    let mut threads = Vec::new();
    for queue in 0..char_device.queues() {
        let worker = QueueThread {
            queue,
            cpus: device.queue_cpus(queue),
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
                let error = Error::Kernel { id: Some(char_device.id()), call: "clone", source };
                return Err(abandon(device.control(), char_device, threads, error));
            }
        }
    }
    drop(report);
    let mut stats = vec![None; threads.len()];
    // A queue that fails drops its sender; the others are released when this function's caller closes the device.
    for _ in 0..threads.len() {
        match ready.recv() {
            Ok((queue, Ok(queue_stats))) => stats[usize::from(queue)] = Some(queue_stats),
            Ok((_, Err(error))) => return Err(abandon(device.control(), char_device, threads, error)),
            Err(_) => break,
        }
    }
    Ok(Served { threads, stats: stats.into_iter().flatten().collect() })
}

/// One queue did not come up: STOP_DEV hands the other queues' tags back, and their threads end.
fn abandon(control: &Control, device: &CharDevice, threads: Vec<JoinHandle<()>>, error: Error) -> Error {
    let _ = control.stop(device.id());
    for thread in threads {
        let _ = thread.join();
    }
    error
}

type Ready = (u16, Result<Arc<QueueStats>, Error>);

struct QueueThread {
    queue: u16,
    cpus: Vec<usize>,
    device: Arc<CharDevice>,
    target: Arc<dyn Target>,
    observer: Observer,
    running: Arc<AtomicUsize>,
}

impl QueueThread {
    fn run(self, ready: mpsc::Sender<Ready>) {
        prepare_queue_thread(&self.cpus);
        let id = self.queue;
        let opened = catch_unwind(AssertUnwindSafe(|| self.open()));
        match opened.unwrap_or_else(|panic| Err(panicked(&self.device, panic.as_ref()))) {
            Ok(mut queue) => {
                let _ = ready.send((id, Ok(Arc::clone(queue.queue().stats()))));
                drop(ready); // whoever waits for the others hears when the last of them is gone
                let report = |reason| (self.observer)(ServeEvent::QueueFailed(QueueFailure { queue: id, reason }));
                if let Err(error) = queue.serve(&report) {
                    report(error.to_string());
                }
            }
            Err(error) => {
                let _ = ready.send((id, Err(error)));
            }
        }
        drop(self.device);
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            (self.observer)(ServeEvent::Ended);
        }
    }

    fn open(&self) -> Result<NativeQueue, Error> {
        let mut queue = NativeQueue::open(&self.device, self.queue, self.target.as_ref())?;
        queue.fetch_all()?;
        Ok(queue)
    }
}

/// Makes the calling thread fit to own a queue: placed, and marked as one whose memory allocations must not wait for
/// write-back (which may be waiting for this very device).
pub fn prepare_queue_thread(cpus: &[usize]) {
    let _ = pin_current_thread(cpus); // a wish: outside of the cpuset the thread stays where it may run
    set_io_flusher();
}

/// PR_SET_IO_FLUSHER, which needs CAP_SYS_RESOURCE; without it, a device under memory pressure may stall, as with every other server.
#[allow(unsafe_code)]
fn set_io_flusher() {
    const PR_SET_IO_FLUSHER: libc::c_int = 57; // linux/prctl.h

    // SAFETY: this prctl takes plain numbers and changes a flag of the calling thread.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}
