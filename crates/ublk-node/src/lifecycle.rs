//! One device of this process: its operations, whoever calls them.
//!
//! Threads: operations run on threads of their own (ops.rs), one at a time per device, for `control` is locked for their whole length.
//! JavaScript's threads touch only the rest, whose locks are short.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ublk::queue::Stats;
use ublk::serve::{Observer, ServeEvent};
use ublk::target::LegStatus;
use ublk::uapi::{DevState, Features};
use ublk::{CharDevice, Control, Device, Recovery, Served, SharedMemory, Target, spawn_target};

use crate::error::NativeError;
use crate::events::{Events, NativeEvent, Wakes};
use crate::memory::QueueMemory;
use crate::session::{Session, SharedQueue};
use crate::{main_queue, ops, registry};

/// Time for the queues to end after STOP_DEV has answered, or for an owner's device when its thread ends.
const QUEUES_LIMIT: Duration = Duration::from_secs(10);

/// How often is looked whether they have.
const QUEUES_POLL: Duration = Duration::from_millis(1);

/// Time for the driver to notice that a device's last queue is gone.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

/// Time for the driver to take DEL_DEV_ASYNC, which waits for nothing but a lock.
const DELETE_LATER_LIMIT: Duration = Duration::from_millis(100);

/// How long the end of the process waits for a STOP_DEV that is under way. Its kernel thread waits for open requests; if the process ended
/// meanwhile, that thread would wait for the process, and the process for it, until the machine is restarted.
const STOPPING_LIMIT: Duration = Duration::from_secs(60);

/// How often is looked whether it has ended.
const STOPPING_POLL: Duration = Duration::from_millis(2);

/// A device of this process.
pub(crate) struct DeviceState {
    pub(crate) key: u32,
    pub(crate) id: u32,
    pub(crate) events: Events,
    /// With recovery, failure leaves the device to the next server.
    pub(crate) leaves_device: bool,
    pub(crate) depth: u16,
    pub(crate) max_io_bytes: u32,
    deadline: Duration,
    control: Mutex<Lifecycle>,
    serving: Mutex<Serving>,
    last_stats: Mutex<Option<Stats>>,
    /// STOP_DEV is in the kernel.
    is_stopping: AtomicBool,
    /// To ask about, without waiting for an operation; what keeps it is `control`.
    target: Option<Weak<dyn Target>>,
}

/// Held through an operation.
struct Lifecycle {
    /// None after DEL_DEV.
    device: Option<Device>,
    target: Option<Arc<dyn Target>>,
}

/// Who answers the requests now.
#[derive(Clone)]
enum Serving {
    Nobody,
    Native(Arc<NativeRun>),
    JavaScript(Arc<Session>),
}

/// One run of a native target.
struct NativeRun {
    served: Mutex<Option<Served>>,
    was_asked_to_stop: AtomicBool,
}

/// How JavaScript serves.
pub(crate) enum Mode {
    /// A native thread owns each ring.
    Main(Arc<Wakes>),
    /// Worker threads will open the queues.
    Workers,
}

impl DeviceState {
    /// Wraps an added device and makes it known to the process.
    pub(crate) fn new(
        key: u32,
        device: Device,
        target: Option<Arc<dyn Target>>,
        deadline: Duration,
        events: Events,
    ) -> Arc<DeviceState> {
        let spec = device.spec();
        let state = Arc::new(DeviceState {
            key,
            id: device.id(),
            events,
            leaves_device: spec.recovery != Recovery::Off,
            depth: spec.depth,
            max_io_bytes: spec.max_io_bytes,
            deadline,
            target: target.as_ref().map(Arc::downgrade),
            control: Mutex::new(Lifecycle { device: Some(device), target }),
            serving: Mutex::new(Serving::Nobody),
            last_stats: Mutex::default(),
            is_stopping: AtomicBool::new(false),
        });
        registry::insert(&state);
        state
    }

    /// The run that workers may open queues of.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        match &*lock(&self.serving) {
            Serving::JavaScript(session) => Some(Arc::clone(session)),
            Serving::Nobody | Serving::Native(_) => None,
        }
    }

    /// Numbers of this run, or of the last one.
    pub(crate) fn stats(&self) -> Stats {
        let serving = lock(&self.serving).clone();
        serving.stats().or_else(|| lock(&self.last_stats).clone()).unwrap_or_else(|| Stats::of(&[]))
    }

    /// Of a mirror: its legs now.
    pub(crate) fn legs(&self) -> Vec<LegStatus> {
        self.target.as_ref().and_then(Weak::upgrade).map_or_else(Vec::new, |target| target.legs())
    }

    /// Serves the queues of a native target.
    fn serve_target(self: &Arc<Self>, device: &mut Device, target: &Arc<dyn Target>) -> Result<(), NativeError> {
        self.check_idle()?;
        let run = Arc::new(NativeRun { served: Mutex::new(None), was_asked_to_stop: false.into() });
        let served = spawn_target(device, Arc::clone(target), self.observer(&run))?;
        *lock(&run.served) = Some(served);
        *lock(&self.serving) = Serving::Native(run);
        Ok(())
    }

    /// Opens the char device for JavaScript's queues; in main mode their threads run when it returns.
    pub(crate) fn prepare_queues(self: &Arc<Self>, memory: Vec<QueueMemory>, mode: &Mode) -> Result<(), NativeError> {
        let mut lifecycle = lock(&self.control);
        let device = lifecycle.device(self.id)?;
        self.check_idle()?;
        if memory.len() != usize::from(device.spec().queues) {
            return Err(NativeError::invalid_state(self.id, "needs one memory per queue"));
        }
        if device.is_recovering() {
            device.take_target(None)?;
        }
        let char_device = device.open()?;
        let session = self.new_session(device, char_device, memory);
        *lock(&self.serving) = Serving::JavaScript(Arc::clone(&session));
        let Mode::Main(wakes) = mode else { return Ok(()) };
        main_queue::spawn_all(&session, wakes).inspect_err(|_| {
            let _ = self.stop_serving(device);
        })
    }

    fn new_session(
        self: &Arc<Self>,
        device: &Device,
        char_device: Arc<CharDevice>,
        memory: Vec<QueueMemory>,
    ) -> Arc<Session> {
        let queue = |session: &_, id: u16, memory| {
            let cpus = device.queue_cpus(id);
            Arc::new(SharedQueue::new(id, memory, cpus, self.depth, self.deadline, Clone::clone(session)))
        };
        Session::new(self, device.control().clone(), char_device, |session| {
            (0..).zip(memory).map(|(id, memory)| queue(session, id, memory)).collect()
        })
    }

    /// START_DEV or END_USER_RECOVERY; the queues of a native target are started first, those of JavaScript were prepared.
    pub(crate) fn start(self: &Arc<Self>) -> Result<(), NativeError> {
        let mut lifecycle = lock(&self.control);
        if let Lifecycle { device: Some(device), target: Some(target) } = &mut *lifecycle {
            self.serve_target(device, target)?;
        }
        let device = lifecycle.device(self.id)?;
        let is_complete = match &*lock(&self.serving) {
            Serving::Nobody => false,
            Serving::Native(_) => true,
            Serving::JavaScript(session) => session.is_complete(),
        };
        let started = if is_complete {
            device.start().map_err(NativeError::from)
        } else {
            Err(NativeError::invalid_state(self.id, "has a queue that is not being served"))
        };
        started.inspect_err(|_| {
            let _ = self.stop_serving(device);
        })
    }

    /// STOP_DEV, and the end of all that `prepare` made.
    pub(crate) fn stop(&self) -> Result<(), NativeError> {
        self.ask_to_stop();
        let mut lifecycle = lock(&self.control);
        match &mut lifecycle.device {
            Some(device) => self.stop_serving(device),
            None => Ok(()),
        }
    }

    /// `stop`, then DEL_DEV. A device that waits for the next server is left to it.
    pub(crate) fn close(&self) -> Result<(), NativeError> {
        self.ask_to_stop();
        let mut lifecycle = lock(&self.control);
        let Some(device) = &mut lifecycle.device else { return Ok(()) };
        self.stop_serving(device)?;
        if !device.is_recovering() {
            device.delete()?;
        }
        self.forget(&mut lifecycle);
        Ok(())
    }

    /// QUIESCE_DEV, and the end of the queues, which answer what they have: then the device is the next server's, and this one has
    /// nothing to do with it any more.
    /// Queues that take longer than `limit` do that when they end, and the `ended` event follows.
    pub(crate) fn quiesce(self: &Arc<Self>, limit: Duration) -> Result<(), NativeError> {
        let until = Instant::now() + limit;
        let mut lifecycle = lock(&self.control);
        let device = lifecycle.device(self.id)?;
        if matches!(*lock(&self.serving), Serving::Nobody) {
            return Err(NativeError::invalid_state(self.id, "is not being served"));
        }
        device.quiesce(limit)?;
        self.ask_to_stop();
        if !self.queues_end_within(until.saturating_duration_since(Instant::now())) {
            self.finish_quiesce_later();
            return Err(NativeError::queues_remain(self.id, limit.as_millis()));
        }
        self.release_serving(device)?;
        let _ = device.control().wait_released(self.id, RELEASE_LIMIT)?;
        self.forget(&mut lifecycle);
        Ok(())
    }

    /// A handler or a disk that is late still answers, and the driver waits for that; only then is the device the next server's.
    fn finish_quiesce_later(self: &Arc<Self>) {
        let (serving, state) = (lock(&self.serving).clone(), Arc::clone(self));
        ops::detach(move || {
            while !serving.ends_within(QUEUES_LIMIT) {}
            let mut lifecycle = lock(&state.control);
            let is_over = !lock(&state.serving).is(&serving);
            if !is_over && let Some(device) = &mut lifecycle.device {
                let _ = state.release_serving(device);
                state.tell_end(&mut lifecycle);
            }
        });
    }

    /// UPDATE_SIZE; a native target is asked first whether it can serve so much.
    pub(crate) fn resize(&self, size_bytes: u64) -> Result<(), NativeError> {
        let mut lifecycle = lock(&self.control);
        if let Some(target) = &lifecycle.target {
            target.resize(size_bytes)?;
        }
        Ok(lifecycle.device(self.id)?.resize(size_bytes)?)
    }

    /// REG_BUF.
    pub(crate) fn share_memory(&self, memory: Arc<SharedMemory>) -> Result<(), NativeError> {
        Ok(lock(&self.control).device(self.id)?.share_memory(memory)?)
    }

    /// UNREG_BUF.
    pub(crate) fn unshare_memory(&self, path: &Path) -> Result<(), NativeError> {
        Ok(lock(&self.control).device(self.id)?.unshare_memory(path)?)
    }

    /// What the device's users share with it.
    pub(crate) fn shared_memory(&self) -> Result<Vec<(u16, Arc<SharedMemory>)>, NativeError> {
        Ok(lock(&self.control).device(self.id)?.shared_memory())
    }

    /// The device is gone, or somebody else's.
    fn forget(&self, lifecycle: &mut Lifecycle) {
        *lifecycle = Lifecycle { device: None, target: None };
        registry::remove(self.key);
    }

    /// DEL_DEV_ASYNC: the driver removes the device when the process's end has closed what is open.
    fn delete_later(&self) {
        let Ok(control) = Control::open() else { return };
        // It may have been deleted from outside, and its number be somebody else's.
        if !control.info(self.id).is_ok_and(|info| info.is_served_by_another_process()) {
            let _ = control.delete_async(self.id);
        }
    }

    /// What the driver says of it.
    pub(crate) fn info(&self) -> Result<ublk::DeviceInfo, NativeError> {
        Ok(Control::open()?.info(self.id)?)
    }

    /// A queue's JavaScript side is gone.
    pub(crate) fn fail_queue(&self, queue: u16, reason: String) {
        if let Some(session) = self.session() {
            session.fail(queue, NativeError::backend(self.id, reason));
        }
    }

    /// JavaScript has published completions while the ring's owner slept.
    pub(crate) fn kick(&self, queue: usize) {
        if let Serving::JavaScript(session) = &*lock(&self.serving)
            && let Some(queue) = session.queues.get(queue)
        {
            queue.wake();
        }
    }

    /// Every queue of a run is gone although nobody here asked: the device was stopped from outside, or failed.
    pub(crate) fn run_ended(&self, session: &Arc<Session>) {
        self.clean_up(&Serving::JavaScript(Arc::clone(session)));
    }

    fn native_run_ended(&self, run: &Arc<NativeRun>) {
        self.clean_up(&Serving::Native(Arc::clone(run)));
    }

    /// A queue cannot serve any more: the others end too, and the device is the next server's, or stopped.
    fn native_queue_failed(&self, run: &NativeRun) {
        let Ok(control) = Control::open() else { return };
        // Before 6.16 the driver may forget a request of a queue that ends while its process lives, and then waits for it without end.
        let may_end_alone = || control.features().is_ok_and(|here| here.contains(Features::QUIESCE));
        if self.leaves_device && may_end_alone() {
            lock(&run.served).iter().for_each(Served::give_up);
        } else {
            let _ = self.stop_device(&control);
        }
    }

    /// STOP_DEV for a failed queue.
    pub(crate) fn stop_device(&self, control: &Control) -> Result<(), NativeError> {
        Ok(self.while_stopping(|| control.stop(self.id))?)
    }

    /// Sends STOP_DEV, which the end of the process waits for.
    fn while_stopping<T>(&self, stop: impl FnOnce() -> T) -> T {
        self.is_stopping.store(true, Ordering::Release);
        let stopped = stop();
        self.is_stopping.store(false, Ordering::Release);
        stopped
    }

    fn clean_up(&self, run: &Serving) {
        let mut lifecycle = lock(&self.control);
        if !lock(&self.serving).is(run) {
            return; // an operation was faster
        }
        let Some(device) = &mut lifecycle.device else { return };
        let was_live = device.is_live();
        let _ = self.release_serving(device);
        if was_live {
            self.tell_end(&mut lifecycle);
        }
    }

    fn tell_end(&self, lifecycle: &mut Lifecycle) {
        let Some(device) = &lifecycle.device else { return };
        // Whoever hears of the end asks for the state next.
        let _ = device.control().wait_released(self.id, RELEASE_LIMIT);
        let state = device.control().info(self.id).map(|info| info.state);
        if matches!(state, Ok(DevState::Quiesced | DevState::FailIo)) {
            self.forget(lifecycle);
        }
        self.events.call(NativeEvent::ended());
    }

    /// The thread that owns the device ends, and its memory with it.
    pub(crate) fn owner_ends(self: &Arc<Self>) {
        end_all(std::slice::from_ref(self), Instant::now() + QUEUES_LIMIT);
    }

    fn end(&self) {
        self.ask_to_stop();
        if let Some(session) = self.session() {
            session.fail_all();
        }
        if self.leaves_device {
            // The rings close, and the driver keeps the device for the next server.
            let _ = self.session().is_none_or(|session| session.wait_gone(QUEUES_LIMIT));
        } else if self.close().is_err() {
            self.delete_later();
        }
    }

    fn ask_to_stop(&self) {
        match &*lock(&self.serving) {
            Serving::Nobody => {}
            Serving::Native(run) => run.was_asked_to_stop.store(true, Ordering::Release),
            Serving::JavaScript(session) => session.ask_to_stop(),
        }
    }

    fn stop_serving(&self, device: &mut Device) -> Result<(), NativeError> {
        if matches!(*lock(&self.serving), Serving::Nobody) {
            return Ok(()); // never prepared, or ended by itself: with recovery, STOP_DEV would end more than we serve
        }
        self.ask_to_stop();
        if device.is_recovering() {
            return self.give_up_recovery(device);
        }
        if matches!(device.spec().recovery, Recovery::Requeue | Recovery::Reissue) {
            self.let_go(device)?;
        }
        self.while_stopping(|| device.stop())?;
        self.release_serving(device)
    }

    /// Ends the queues before STOP_DEV. With a recovery that holds requests back the driver first waits until no request is open, and lets
    /// none in: one that consists of several, such as a write with a flush behind it, may never end then, and STOP_DEV neither. It waits
    /// for none on a device that nobody serves.
    fn let_go(&self, device: &mut Device) -> Result<(), NativeError> {
        if device.quiesce(QUEUES_LIMIT).is_err() {
            // It is not live, or the kernel has no QUIESCE_DEV for it. Native queues end by themselves, too.
            let Serving::Native(run) = lock(&self.serving).clone() else { return Ok(()) };
            lock(&run.served).iter().for_each(Served::give_up);
        }
        if self.queues_end_within(QUEUES_LIMIT) {
            self.release_serving(device)?;
            let _ = device.control().wait_released(self.id, RELEASE_LIMIT)?;
        }
        Ok(()) // else STOP_DEV has to do, which says who does not answer
    }

    /// False when a queue is still serving after `limit`.
    fn queues_end_within(&self, limit: Duration) -> bool {
        let serving = lock(&self.serving).clone();
        serving.ends_within(limit)
    }

    /// Closes the queues without STOP_DEV.
    fn give_up_recovery(&self, device: &mut Device) -> Result<(), NativeError> {
        match &*lock(&self.serving) {
            Serving::Nobody => {}
            Serving::Native(run) => lock(&run.served).iter().for_each(Served::give_up),
            Serving::JavaScript(session) => session.fail_all(),
        }
        let released = self.release_serving(device);
        device.give_up_recovery();
        released
    }

    /// After STOP_DEV, or what has the same effect: waits for the queues and gives up the char device.
    fn release_serving(&self, device: &mut Device) -> Result<(), NativeError> {
        let serving = lock(&self.serving).clone();
        if let Some(stats) = serving.stats() {
            *lock(&self.last_stats) = Some(stats);
        }
        match &serving {
            Serving::Nobody => return Ok(()),
            Serving::Native(run) => {
                let served = lock(&run.served).take();
                if let Some(served) = served {
                    served.join();
                }
            }
            Serving::JavaScript(session) => {
                if !session.wait_gone(QUEUES_LIMIT) {
                    return Err(NativeError::queues_remain(self.id, QUEUES_LIMIT.as_millis()));
                }
                session.close_char();
            }
        }
        *lock(&self.serving) = Serving::Nobody;
        device.close_char();
        Ok(())
    }

    /// Nobody serves it: nothing uses the memory of a former run.
    pub(crate) fn check_idle(&self) -> Result<(), NativeError> {
        match &*lock(&self.serving) {
            Serving::Nobody => Ok(()),
            Serving::Native(_) | Serving::JavaScript(_) => {
                Err(NativeError::invalid_state(self.id, "is being served already"))
            }
        }
    }

    fn observer(self: &Arc<Self>, run: &Arc<NativeRun>) -> Observer {
        let (state, run) = (Arc::downgrade(self), Arc::downgrade(run));
        Arc::new(move |event| {
            let (Some(state), Some(run)) = (state.upgrade(), run.upgrade()) else { return };
            if run.was_asked_to_stop.load(Ordering::Acquire) {
                return;
            }
            match event {
                ServeEvent::QueueFailed(failure) => {
                    let error = NativeError::backend(state.id, failure.reason);
                    state.events.call(NativeEvent::queue_failed(failure.queue, error));
                    ops::detach(move || state.native_queue_failed(&run));
                }
                ServeEvent::Warning(message) => {
                    state.events.call(NativeEvent::warning(NativeError::backend(state.id, message)));
                }
                ServeEvent::Ended => ops::detach(move || state.native_run_ended(&run)),
            }
        })
    }
}

impl Lifecycle {
    fn device(&mut self, id: u32) -> Result<&mut Device, NativeError> {
        self.device.as_mut().ok_or_else(|| NativeError::invalid_state(id, "is deleted, or left to another server"))
    }
}

impl Serving {
    /// The same run.
    fn is(&self, other: &Serving) -> bool {
        match (self, other) {
            (Serving::Native(one), Serving::Native(two)) => Arc::ptr_eq(one, two),
            (Serving::JavaScript(one), Serving::JavaScript(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }

    /// False when a queue is still serving after `limit`.
    fn ends_within(&self, limit: Duration) -> bool {
        match self {
            Serving::Nobody => true,
            Serving::JavaScript(session) => session.wait_gone(limit),
            Serving::Native(run) => {
                let until = Instant::now() + limit;
                while lock(&run.served).as_ref().is_some_and(Served::is_running) {
                    if Instant::now() >= until {
                        return false;
                    }
                    std::thread::sleep(QUEUES_POLL);
                }
                true
            }
        }
    }

    fn stats(&self) -> Option<Stats> {
        match self {
            Serving::Nobody => None,
            Serving::Native(run) => lock(&run.served).as_ref().map(Served::stats),
            Serving::JavaScript(session) => Some(Stats::of(&session.stats())),
        }
    }
}

/// Last resort when a thread or the process ends: fails, stops and deletes devices until a time; the driver removes the rest later.
/// Only a STOP_DEV that is under way is waited for longer.
pub(crate) fn end_all(devices: &[Arc<DeviceState>], until: Instant) {
    for_each_until(devices, until, DeviceState::end);
    let stopped_until = Instant::now() + STOPPING_LIMIT;
    while devices.iter().any(|device| device.is_stopping.load(Ordering::Acquire)) && Instant::now() < stopped_until {
        std::thread::sleep(STOPPING_POLL);
    }
    let left: Vec<_> =
        devices.iter().filter(|device| !device.leaves_device && registry::get(device.key).is_some()).cloned().collect();
    if !left.is_empty() {
        for_each_until(&left, Instant::now() + DELETE_LATER_LIMIT, DeviceState::delete_later);
    }
}

/// Runs `work` for each device on a thread of its own, and waits for all of them until a time.
fn for_each_until(devices: &[Arc<DeviceState>], until: Instant, work: fn(&DeviceState)) {
    let (done, all_done) = std::sync::mpsc::channel::<()>();
    for device in devices {
        let (device, done) = (Arc::clone(device), done.clone());
        ops::detach(move || {
            work(&device);
            drop(done);
        });
    }
    drop(done);
    // Nothing is ever sent: the channel closes with its last sender, also when a thread could not be made or has panicked.
    let _ = all_done.recv_timeout(until.saturating_duration_since(Instant::now()));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
