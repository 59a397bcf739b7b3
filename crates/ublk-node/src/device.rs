//! A device as JavaScript holds it: mirrors of `DeviceSpec`, `QueueMemory` and `NativeDevice` in src/native.ts.
//!
//! Thread: the one that made it. Everything that can wait runs on threads of its own (ops.rs).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use napi::Env;
use napi::bindgen_prelude::{Function, Null, Object, Uint8Array, Unknown};
use napi_derive::napi;
use ublk::device::START_LIMIT;
use ublk::target::Integrity;
use ublk::{
    BufferMode, Control, DataPath, Device, DeviceInfo, Preemption, QueueOptions, Recovery, Segments, SharedMemory,
    Target, Threads, ZeroCopyFallback,
};

use crate::error::NativeError;
use crate::events::{Events, NativeEvent, Wakes};
use crate::hot_function::hot_function;
use crate::info::NativeDeviceInfo;
use crate::lifecycle::{DeviceState, Mode};
use crate::request_memory::{NativeSharedMemory, SegmentSpec, SharedMemorySpec};
use crate::stats::NativeStats;
use crate::target::{IntegritySpec, Opening, TargetSpec};
use crate::{memory, ops, owner, registry};

/// What a new device shall be.
#[napi(object, use_nullable = true, object_to_js = false)]
#[derive(Debug)]
pub struct DeviceSpec {
    /// Wanted N.
    pub id: Option<u32>,
    /// Hardware queues.
    pub queues: u32,
    /// Tags per queue.
    pub depth: u32,
    /// Largest request.
    pub max_io_bytes: u32,
    /// Null takes the target's.
    pub size_bytes: Option<i64>,
    /// Null takes the target's.
    pub logical_block_bytes: Option<u32>,
    /// Preferred I/O; null takes the target's.
    pub physical_block_bytes: Option<u32>,
    /// Refuse writes.
    pub read_only: bool,
    /// Announce a spinning disk.
    pub rotational: bool,
    /// FLUSH is answered.
    pub volatile_cache: bool,
    /// FUA is answered.
    pub fua: bool,
    /// DISCARD is answered.
    pub discard: bool,
    /// WRITE_ZEROES is answered.
    pub write_zeroes: bool,
    /// off, requeue, reissue or fail-io.
    pub recovery: String,
    /// auto, copy, get-data, user-copy, zero-copy, auto-zero-copy or shmem.
    pub data_path: String,
    /// Files of memory that users share, for shmem.
    pub shared_memory: Vec<SharedMemorySpec>,
    /// Queue threads of a native target; null is one per queue.
    pub threads: Option<u32>,
    /// Each thread serves some tags of every queue.
    pub per_io: bool,
    /// Many tags per command.
    pub batch: bool,
    /// Files from the ring's table.
    pub fixed_files: bool,
    /// Queue threads take the CPU from others when a request comes; null is as it costs nobody anything.
    pub preempt: Option<bool>,
    /// off, on or always.
    pub zero_copy_fallback: String,
    /// Look for partitions.
    pub partition_scan: bool,
    /// Alignment of the memory of requests; null is the driver's default, or the target's.
    pub dma_align_bytes: Option<u32>,
    /// Its shape; null does not limit it.
    pub segments: Option<SegmentSpec>,
    /// Made as a user without CAP_SYS_ADMIN.
    pub unprivileged: bool,
    /// Of a device with integrity data.
    pub integrity: Option<IntegritySpec>,
    /// CPUs for queue threads.
    pub cpus: Option<Vec<u32>>,
    /// Time of a JavaScript handler.
    pub request_deadline_ms: f64,
    /// Null for a JavaScript backend.
    pub target: Option<TargetSpec>,
}

impl DeviceSpec {
    fn open_target(&self) -> Result<Option<Arc<dyn Target>>, ublk::Error> {
        self.open_target_with(None, |target| {
            let block_bytes = self.logical_block_bytes.unwrap_or(target.geometry().logical_block_bytes);
            self.integrity.as_ref().map(|integrity| integrity.options(block_bytes))
        })
    }

    /// For a device that has data, and integrity data if it was made so. Nothing is made anew.
    fn open_target_again(&self, device: &Device) -> Result<Option<Arc<dyn Target>>, ublk::Error> {
        self.open_target_with(Some(device.spec().size_bytes), |_| device.integrity())
    }

    fn open_target_with(
        &self,
        in_use_bytes: Option<u64>,
        integrity: impl Fn(&dyn Target) -> Option<Integrity>,
    ) -> Result<Option<Arc<dyn Target>>, ublk::Error> {
        let zero_copy = matches!(self.data_path.as_str(), "zero-copy" | "auto-zero-copy");
        let Some(spec) = &self.target else { return Ok(None) };
        let may_make = in_use_bytes.is_none();
        let target = spec.open(Opening { zero_copy, block_bytes: self.logical_block_bytes, may_make })?;
        Ok(Some(match integrity(target.as_ref()) {
            Some(integrity) => spec.with_integrity(target, integrity, in_use_bytes)?,
            None => target,
        }))
    }

    /// What a target can do goes before what the caller says, except for refusing writes.
    fn resolve(&self, target: Option<&dyn Target>) -> ublk::DeviceSpec {
        let geometry = target.map(Target::geometry);
        let logical = geometry.as_ref().map_or(512, |geometry| geometry.logical_block_bytes);
        let logical_block_bytes = self.logical_block_bytes.unwrap_or(logical);
        let physical = geometry.as_ref().map_or(0, |geometry| geometry.physical_block_bytes);
        let has_bytes = geometry.as_ref().map_or(0, |geometry| geometry.size_bytes);
        let size_bytes = self.size_bytes.map_or(has_bytes, |size| size as u64);
        ublk::DeviceSpec {
            id: self.id,
            queues: self.queues as u16,
            depth: self.depth as u16,
            max_io_bytes: self.max_io_bytes,
            // The target alone knew its blocks when the size was checked, and it has whole ones.
            size_bytes: size_bytes - size_bytes % u64::from(logical_block_bytes),
            logical_block_bytes,
            physical_block_bytes: self.physical_block_bytes.unwrap_or(physical).max(logical_block_bytes),
            read_only: self.read_only || geometry.is_some_and(|geometry| geometry.read_only),
            rotational: self.rotational || geometry.is_some_and(|geometry| geometry.rotational),
            volatile_cache: geometry.map_or(self.volatile_cache, |geometry| geometry.volatile_cache),
            fua: geometry.map_or(self.fua, |geometry| geometry.fua),
            discard: geometry.map_or(self.discard, |geometry| geometry.discard),
            write_zeroes: geometry.map_or(self.write_zeroes, |geometry| geometry.write_zeroes),
            recovery: match self.recovery.as_str() {
                "requeue" => Recovery::Requeue,
                "reissue" => Recovery::Reissue,
                "fail-io" => Recovery::FailIo,
                _ => Recovery::Off,
            },
            zoned: target.and_then(Target::zoned),
            integrity: target.and_then(Target::integrity),
            dma_align_bytes: self.dma_align_bytes,
            zero_copy_align_bytes: geometry.map_or(1, |geometry| geometry.memory_align_bytes),
            segments: self.segments.as_ref().map(Segments::from),
            unprivileged: self.unprivileged,
            data_path: self.data_path(target),
            shared_memory: Vec::new(),
            threads: Threads { count: self.threads.map(|count| count as u16), per_io: self.per_io },
            queue_options: QueueOptions {
                batch: self.batch,
                plain_files: !self.fixed_files,
                preemption: match self.preempt {
                    None => Preemption::Auto,
                    Some(true) => Preemption::Always,
                    Some(false) => Preemption::Never,
                },
                fallback: match self.zero_copy_fallback.as_str() {
                    "on" => ZeroCopyFallback::On,
                    "always" => ZeroCopyFallback::Always,
                    _ => ZeroCopyFallback::Off,
                },
            },
            partition_scan: self.partition_scan,
            cpus: self.cpus.as_ref().map(|cpus| cpus.iter().map(|&cpu| cpu as usize).collect()),
            start_limit: START_LIMIT,
        }
    }
}

/// Where a device comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin {
    /// ADD_DEV and SET_PARAMS.
    New,
    /// Another server made it, and is gone.
    Existing(u32),
}

impl DeviceSpec {
    fn open_shared_memory(&self) -> Result<Vec<Arc<SharedMemory>>, ublk::Error> {
        self.shared_memory.iter().map(SharedMemorySpec::open).collect()
    }

    fn data_path(&self, target: Option<&dyn Target>) -> DataPath {
        let named = BufferMode::ALL.into_iter().find(|mode| mode.name() == self.data_path);
        named.map_or_else(|| DataPath::Auto(target.map(Target::buffers).unwrap_or_default()), DataPath::Only)
    }
}
/// The lock of a former server's file goes with its rings, a little later than the process.
const FILE_LIMIT: Duration = Duration::from_secs(5);
const FILE_POLL: Duration = Duration::from_millis(5);

/// Shared memory of one JavaScript queue.
#[napi(object, use_nullable = true, object_to_js = false)]
pub struct QueueMemory {
    /// Data slots.
    pub slab: Uint8Array,
    /// Control words.
    pub control: Uint8Array,
    /// Slots in the slab.
    pub slots: u32,
}

/// A ublk device of this process.
#[napi]
pub struct NativeDevice {
    state: Arc<DeviceState>,
    granted: DeviceInfo,
    data_path: &'static str,
}

/// A device that JavaScript has not received: if it never does (its environment ended), one that was added goes again, and one that
/// was taken over is as after the end of its owner.
struct Fresh {
    device: Option<NativeDevice>,
    is_new: bool,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let is_new = self.is_new;
        if let Some(device) = self.device.take() {
            ops::detach(move || {
                if is_new {
                    let _ = device.state.close();
                } else {
                    device.state.owner_ends();
                }
            });
        }
    }
}

/// Adds or takes over a device, and opens its target. `starts` it too: for native targets, which need no JavaScript for that.
pub(crate) fn add<'env>(
    env: &'env Env,
    spec: DeviceSpec,
    origin: Origin,
    starts: bool,
    on_event: &Function<'_, NativeEvent, Unknown<'static>>,
) -> napi::Result<Object<'env>> {
    let key = registry::next_key();
    let events = Events::new(on_event, move |env, event| {
        if event.kind == "ended" {
            owner::set_live(env, key, false);
        }
    })?;
    ops::run(
        env,
        move || {
            let Some(adding) = registry::begin_adding() else {
                return Err(NativeError::panicked(None, "a device was added while the process ended"));
            };
            let is_new = matches!(origin, Origin::New);
            let device = add_now(key, &spec, origin, events)?;
            drop(adding);
            if starts && let Err(error) = device.state.start() {
                let _ = device.state.close();
                return Err(error);
            }
            Ok(Fresh { device: Some(device), is_new })
        },
        move |env, added| {
            let mut fresh = added?;
            if let Some(device) = &fresh.device {
                owner::add(env, Arc::clone(&device.state))
                    .map_err(|error| NativeError::panicked(Some(device.state.id), &error.reason))?;
                owner::set_live(env, key, starts);
            }
            fresh.device.take().ok_or_else(|| NativeError::panicked(None, "a device was lost"))
        },
    )
}

fn add_now(key: u32, spec: &DeviceSpec, origin: Origin, events: Events) -> Result<NativeDevice, NativeError> {
    let control = Control::open()?;
    let (device, target) = match origin {
        Origin::New => {
            let target = spec.open_target()?;
            let shared_memory = spec.open_shared_memory()?;
            (Device::add(&control, ublk::DeviceSpec { shared_memory, ..spec.resolve(target.as_deref()) })?, target)
        }
        Origin::Existing(id) => recover_now(&control, id, spec)?,
    };
    let granted = device.granted();
    let data_path = device.buffers().name();
    let deadline = Duration::from_secs_f64(spec.request_deadline_ms / 1000.0);
    Ok(NativeDevice { state: DeviceState::new(key, device, target, deadline, events), granted, data_path })
}

/// The device says what it is; of `spec` counts who serves it, and where.
fn recover_now(
    control: &Control,
    id: u32,
    spec: &DeviceSpec,
) -> Result<(Device, Option<Arc<dyn Target>>), NativeError> {
    let mut device = Device::recover(control, id)?;
    let until = Instant::now() + FILE_LIMIT;
    let target = loop {
        match spec.open_target_again(&device) {
            Err(ublk::Error::Busy { .. }) if Instant::now() < until => {
                std::thread::sleep(FILE_POLL);
                device = Device::recover(control, id)?; // another recovery may have the file, and by now the device
            }
            opened => break opened?,
        }
    };
    if let Some(target) = &target {
        target.resize(device.spec().size_bytes)?;
    }
    device.serve_as(spec.resolve(target.as_deref()));
    device.take_shared_memory(spec.shared_memory.iter().map(SharedMemorySpec::of_former).collect())?;
    Ok((device, target))
}

#[napi]
impl NativeDevice {
    /// N of /dev/ublkbN.
    #[napi(getter, catch_unwind)]
    pub fn id(&self) -> u32 {
        self.state.id
    }

    /// Number by which `WorkerQueue` finds it.
    #[napi(getter, catch_unwind)]
    pub fn key(&self) -> u32 {
        self.state.key
    }

    /// What the driver granted when the device was added.
    #[napi(getter, catch_unwind)]
    pub fn granted(&self) -> NativeDeviceInfo {
        self.granted.clone().into()
    }

    /// How data moves.
    #[napi(getter, catch_unwind)]
    pub fn data_path(&self) -> String {
        self.data_path.to_owned()
    }

    /// Makes a stopped device ready to be served by JavaScript.
    #[napi(catch_unwind)]
    pub fn prepare<'env>(
        &self,
        env: &'env Env,
        mode: String,
        memory: Vec<QueueMemory>,
        wake: Option<Function<'_, u32, Unknown<'static>>>,
    ) -> napi::Result<Object<'env>> {
        let (state, key) = (Arc::clone(&self.state), self.state.key);
        let (depth, max_io_bytes) = (usize::from(state.depth), state.max_io_bytes as usize);
        let queues = memory
            .iter()
            .map(|queue| memory::QueueMemory::new(&queue.slab, &queue.control, queue.slots, depth, max_io_bytes))
            .collect::<napi::Result<Vec<_>>>()?;
        let wakes = wake.map(|wake| Wakes::new(&wake, |_, _| {}).map(Arc::new)).transpose()?;
        let mode = match (&*mode, &wakes) {
            ("main", Some(wakes)) => Mode::Main(Arc::clone(wakes)),
            ("worker", None) => Mode::Workers,
            _ => return Err(napi::Error::from_reason(format!("mode {mode} with or without a function to wake"))),
        };
        // Before the memory of a run that goes on would be let go.
        if let Err(error) = state.check_idle() {
            return ops::run(env, move || Err(error), |_, prepared: Result<(), _>| prepared.map(|()| Null));
        }
        let held = memory.into_iter().flat_map(|queue| [queue.slab, queue.control]).collect();
        owner::hold(env, key, held, wakes)?;
        ops::run(
            env,
            move || state.prepare_queues(queues, &mode),
            move |env, prepared| {
                prepared.inspect_err(|_| owner::release(env, key))?;
                Ok(Null)
            },
        )
    }

    /// START_DEV, and before it the queue threads of a native target.
    #[napi(catch_unwind)]
    pub fn start<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let (state, key) = (Arc::clone(&self.state), self.state.key);
        ops::run(
            env,
            move || state.start(),
            move |env, started| {
                started.inspect_err(|_| owner::release(env, key))?;
                owner::set_live(env, key, true);
                Ok(Null)
            },
        )
    }

    /// STOP_DEV and the end of the queues.
    #[napi(catch_unwind)]
    pub fn stop<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let (state, key) = (Arc::clone(&self.state), self.state.key);
        ops::run(
            env,
            move || state.stop(),
            move |env, stopped| {
                stopped?;
                owner::release(env, key);
                Ok(Null)
            },
        )
    }

    /// `stop`, then DEL_DEV.
    #[napi(catch_unwind)]
    pub fn close<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let (state, key) = (Arc::clone(&self.state), self.state.key);
        ops::run(
            env,
            move || state.close(),
            move |_, closed| {
                closed?;
                owner::remove(key);
                Ok(Null)
            },
        )
    }

    /// QUIESCE_DEV and the end of the queues.
    #[napi(catch_unwind)]
    pub fn quiesce<'env>(&self, env: &'env Env, limit_ms: f64) -> napi::Result<Object<'env>> {
        let (state, key) = (Arc::clone(&self.state), self.state.key);
        ops::run(
            env,
            move || state.quiesce(Duration::from_secs_f64(limit_ms / 1000.0)),
            move |env, quiesced| {
                quiesced?;
                owner::release(env, key);
                Ok(Null)
            },
        )
    }

    /// UPDATE_SIZE, after a native target has made itself ready for it.
    #[napi(catch_unwind)]
    pub fn resize<'env>(&self, env: &'env Env, size_bytes: i64) -> napi::Result<Object<'env>> {
        let state = Arc::clone(&self.state);
        ops::run(env, move || state.resize(size_bytes as u64), |_, resized| resized.map(|()| Null))
    }

    /// REG_BUF: a file of memory that its users share too.
    #[napi(catch_unwind)]
    pub fn share_memory<'env>(&self, env: &'env Env, memory: SharedMemorySpec) -> napi::Result<Object<'env>> {
        let state = Arc::clone(&self.state);
        ops::run(env, move || state.share_memory(memory.open()?), |_, shared| shared.map(|()| Null))
    }

    /// UNREG_BUF: one that they no longer share.
    #[napi(catch_unwind)]
    pub fn unshare_memory<'env>(&self, env: &'env Env, path: String) -> napi::Result<Object<'env>> {
        let state = Arc::clone(&self.state);
        ops::run(env, move || state.unshare_memory(Path::new(&path)), |_, unshared| unshared.map(|()| Null))
    }

    /// What they share now.
    #[napi(catch_unwind)]
    pub fn shared_memory<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let state = Arc::clone(&self.state);
        ops::run(
            env,
            move || state.shared_memory(),
            |_, shared| shared.map(|shared| shared.into_iter().map(NativeSharedMemory::from).collect::<Vec<_>>()),
        )
    }

    /// What the driver says of it.
    #[napi(catch_unwind)]
    pub fn info<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let state = Arc::clone(&self.state);
        ops::run(env, move || state.info(), |_, info| info.map(NativeDeviceInfo::from))
    }

    /// Counters and latencies.
    #[napi(catch_unwind)]
    pub fn stats(&self) -> NativeStats {
        NativeStats::new(&self.state.stats(), self.state.legs())
    }

    /// A function that wakes the owner of a queue's ring, for after completions were published. It answers nothing of interest.
    #[napi(catch_unwind)]
    pub fn kicker<'env>(&self, env: &'env Env, queue: u32) -> napi::Result<Unknown<'env>> {
        let state = Arc::clone(&self.state);
        hot_function(env, move || {
            state.kick(queue as usize);
            0
        })
    }

    /// A queue's JavaScript side is gone.
    #[napi(catch_unwind)]
    pub fn fail_queue(&self, queue: u32, reason: String) {
        if let Ok(queue) = u16::try_from(queue) {
            self.state.fail_queue(queue, reason);
        }
    }

    /// A live device keeps the process alive.
    #[napi(catch_unwind, js_name = "ref")]
    pub fn reference(&self, env: &Env) {
        owner::set_ref(env, self.state.key, true);
    }

    /// It does not.
    #[napi(catch_unwind)]
    pub fn unref(&self, env: &Env) {
        owner::set_ref(env, self.state.key, false);
    }
}
