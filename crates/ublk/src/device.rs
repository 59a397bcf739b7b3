//! One device's life over the control plane: add or recover, open, start, quiesce or stop, delete.
//!
//! Thread: one at a time, and none that must not sleep. Queues hold the [`CharDevice`] while they run; the driver's DEL_DEV
//! waits for them, so `delete` comes after the last queue is gone.

mod request_memory;
mod sharing;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};
use ublk_executor::clock;
use ublk_uapi::{
    Attrs, DevInfo, FEATURES, Features, ParamBasic, ParamDiscard, ParamTypes, ParamZoned, Params, SECTOR_SHIFT,
    Sectors, Zone,
};

use crate::control::{Control, Deletion, Opcodes, block_path, char_path};
use crate::shared_memory::SharedTable;
use crate::target::{Integrity, ZonedGeometry};
use crate::{DeviceId, DeviceInfo, Error, SharedMemory, Target};
pub use request_memory::Segments;
use request_memory::check_memory;
pub(crate) use request_memory::dma_align_bytes;
pub use sharing::FormerMemory;

/// How long another opener of the char device (udev) may take to let go, and devtmpfs to make the node.
const OPEN_LIMIT: Duration = Duration::from_secs(2);

/// Time for the driver to work off the end of a device's former server, which it does when the last of its memory is freed.
const FORMER_SERVER_LIMIT: Duration = Duration::from_secs(10);

/// Default time for START_DEV: before Linux 7.0 it scans for partitions, that is, reads through the backend.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// Longest DISCARD or WRITE_ZEROES request: 1 GiB, so that its length fits the result of a commit.
const MAX_CLEAR_SECTORS: u32 = 1 << 21;

/// Smallest piece that a discard can give back.
const DISCARD_GRANULARITY_BYTES: u32 = 4096;

/// Wishes of every device that old kernels drop in silence.
const DISPENSABLE: Features = Features::CMD_IOCTL_ENCODE.union(Features::UPDATE_SIZE);

/// What becomes of the device and its requests when the server dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recovery {
    /// The block device goes; requests fail.
    #[default]
    Off,
    /// The device stays, quiesced; requests in flight fail, new ones wait for a new server.
    Requeue,
    /// As `Requeue`, and requests in flight are issued again to the new server.
    Reissue,
    /// The device stays; requests fail until a new server comes.
    FailIo,
}

/// How data moves between a request's pages and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferMode {
    /// The driver copies between pages and a buffer per tag.
    Copy,
    /// The driver copies between pages and an address named per request (NEED_GET_DATA): in the target's store, or a buffer per tag.
    GetData,
    /// The server copies, by `pread` and `pwrite` on the char device (USER_COPY).
    UserCopy,
    /// The server registers the pages as a fixed buffer of the ring, request by request (SUPPORT_ZERO_COPY).
    ZeroCopy,
    /// The driver does that (AUTO_BUF_REG).
    AutoZeroCopy,
    /// As `Copy`, but data in memory that the device's user shares with the server stays there (SHMEM_ZC).
    SharedMemory,
}

/// What says how the data and the queues of a device are: a server must be made for all that was granted of these.
const SERVING: Features = Features::SUPPORT_ZERO_COPY
    .union(Features::NEED_GET_DATA)
    .union(Features::USER_COPY)
    .union(Features::ZONED)
    .union(Features::AUTO_BUF_REG)
    .union(Features::INTEGRITY)
    .union(Features::SHMEM_ZC);

impl BufferMode {
    /// Every mode.
    pub const ALL: [BufferMode; 6] = [
        BufferMode::Copy,
        BufferMode::GetData,
        BufferMode::UserCopy,
        BufferMode::ZeroCopy,
        BufferMode::AutoZeroCopy,
        BufferMode::SharedMemory,
    ];

    /// The mode of a device that was granted these.
    fn of(granted: Features) -> Option<BufferMode> {
        let kinds = Features::ZONED | Features::INTEGRITY; // which ask for a mode, and are none
        BufferMode::ALL.into_iter().find(|mode| mode.features() == granted & (SERVING - kinds))
    }

    fn features(self) -> Features {
        match self {
            BufferMode::Copy => Features::empty(),
            BufferMode::GetData => Features::NEED_GET_DATA,
            BufferMode::UserCopy => Features::USER_COPY,
            BufferMode::ZeroCopy => Features::SUPPORT_ZERO_COPY,
            BufferMode::AutoZeroCopy => Features::AUTO_BUF_REG | Features::SUPPORT_ZERO_COPY,
            BufferMode::SharedMemory => Features::SHMEM_ZC,
        }
    }

    /// Name as in `info` and in the CLI.
    pub fn name(self) -> &'static str {
        match self {
            BufferMode::Copy => "copy",
            BufferMode::GetData => "get-data",
            BufferMode::UserCopy => "user-copy",
            BufferMode::ZeroCopy => "zero-copy",
            BufferMode::AutoZeroCopy => "auto-zero-copy",
            BufferMode::SharedMemory => "shmem",
        }
    }

    /// The driver lets nobody without CAP_SYS_ADMIN copy by the char device, or use the pages themselves.
    fn is_for_unprivileged(self) -> bool {
        matches!(self, BufferMode::Copy | BufferMode::GetData)
    }

    /// The request's pages are a fixed buffer of the ring, and in no memory of the server's.
    pub(crate) fn is_zero_copy(self) -> bool {
        matches!(self, BufferMode::ZeroCopy | BufferMode::AutoZeroCopy)
    }
}

/// Which buffer mode is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataPath {
    /// The first of these that the kernel has, and copy if it has none.
    Auto(Vec<BufferMode>),
    /// This one, or an error.
    Only(BufferMode),
}

/// What becomes of a request whose pages the driver could not register (auto-zero-copy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroCopyFallback {
    /// It fails.
    Off,
    /// The server registers them (UBLK_AUTO_BUF_REG_FALLBACK).
    #[default]
    On,
    /// As `On`, and the driver is made to fail each time: to test it.
    Always,
}

impl ZeroCopyFallback {
    /// The fixed buffer that the driver is asked to make of a tag's pages.
    #[inline]
    pub(crate) fn buffer_index(self, tag: u16) -> u16 {
        match self {
            ZeroCopyFallback::Off | ZeroCopyFallback::On => tag,
            ZeroCopyFallback::Always => u16::MAX, // no ring has a buffer of this number
        }
    }
}

/// Which threads serve the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Threads {
    /// How many; None is one per queue. Fewer than queues: they are dealt out.
    pub count: Option<u16>,
    /// Each thread serves some tags of every queue (PER_IO_DAEMON): there may be more threads than queues.
    pub per_io: bool,
}

/// Whether a thread that serves takes the CPU from another program when a request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preemption {
    /// [`Preemption::Never`] for a thread that is bound to the one CPU whose requests it serves, and a target that answers at once: who waits
    /// for an answer has left that CPU, and nobody is late. Else [`Preemption::Always`].
    #[default]
    Auto,
    /// As far as the scheduler lets it.
    Always,
    /// SCHED_BATCH: more requests at a time, later beside a busy program.
    Never,
}

/// How the queues talk to the driver. The default is the usual way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueOptions {
    /// Many tags per command (BATCH_IO).
    pub batch: bool,
    /// Files by descriptor, and not from the ring's table of registered ones.
    pub plain_files: bool,
    /// Of the threads that serve.
    pub preemption: Preemption,
    /// For auto-zero-copy.
    pub fallback: ZeroCopyFallback,
}

impl Recovery {
    /// QUIESCE comes with it: kernels before 6.16 drop that in silence.
    fn features(self) -> Features {
        match self {
            Recovery::Off => Features::empty(),
            Recovery::Requeue => Features::USER_RECOVERY | Features::QUIESCE,
            Recovery::Reissue => Recovery::Requeue.features() | Features::USER_RECOVERY_REISSUE,
            Recovery::FailIo => Recovery::Requeue.features() | Features::USER_RECOVERY_FAIL_IO,
        }
    }

    fn of(granted: Features) -> Recovery {
        if granted.contains(Features::USER_RECOVERY_FAIL_IO) {
            Recovery::FailIo
        } else if granted.contains(Features::USER_RECOVERY_REISSUE) {
            Recovery::Reissue
        } else if granted.contains(Features::USER_RECOVERY) {
            Recovery::Requeue
        } else {
            Recovery::Off
        }
    }
}

/// What a new device shall be. Ranges are checked by the caller; the driver checks them again.
#[derive(Debug, Clone)]
pub struct DeviceSpec {
    /// N of /dev/ublkbN; None lets the driver choose.
    pub id: Option<DeviceId>,
    /// Hardware queues.
    pub queues: u16,
    /// Requests open per queue, 1 to 4096.
    pub depth: u16,
    /// Largest request, 4 KiB to 32 MiB, a multiple of 4 KiB.
    pub max_io_bytes: u32,
    /// Size, a multiple of the logical block.
    pub size_bytes: u64,
    /// Smallest I/O, a power of two from 512 to 4096.
    pub logical_block_bytes: u32,
    /// Preferred I/O, a power of two not below the logical block.
    pub physical_block_bytes: u32,
    /// Refuse writes.
    pub read_only: bool,
    /// Announce a spinning disk.
    pub rotational: bool,
    /// FLUSH means something here.
    pub volatile_cache: bool,
    /// FUA writes are answered; needs `volatile_cache`.
    pub fua: bool,
    /// DISCARD is answered.
    pub discard: bool,
    /// WRITE_ZEROES is answered.
    pub write_zeroes: bool,
    /// Its zones, if it is a zoned disk (ZONED): one queue, and user copy.
    pub zoned: Option<ZonedGeometry>,
    /// Its integrity data, if it keeps any (INTEGRITY): user copy.
    pub integrity: Option<Integrity>,
    /// Alignment of the memory of requests (6.15), a power of two from 2 to 4096; None is the driver's default, 4.
    pub dma_align_bytes: Option<u32>,
    /// The same where the target gets that memory itself, in the zero-copy modes: the larger of the two counts.
    pub zero_copy_align_bytes: u32,
    /// Shape of the memory of requests (6.15); None does not limit it.
    pub segments: Option<Segments>,
    /// Make it as a user without CAP_SYS_ADMIN (UNPRIVILEGED_DEV): the device is this user's alone.
    pub unprivileged: bool,
    /// What a dead server leaves.
    pub recovery: Recovery,
    /// How data shall move.
    pub data_path: DataPath,
    /// Memory that the device's users share with this process, for [`BufferMode::SharedMemory`]; more of it when the device is there:
    /// [`Device::share_memory`].
    pub shared_memory: Vec<Arc<SharedMemory>>,
    /// Which threads serve; for native targets.
    pub threads: Threads,
    /// How they talk to the driver; for native targets.
    pub queue_options: QueueOptions,
    /// Look for partitions when it starts. False needs NO_AUTO_PART_SCAN.
    pub partition_scan: bool,
    /// CPUs for the queue threads; None takes the kernel's affinity.
    pub cpus: Option<Vec<usize>>,
    /// Time for START_DEV, usually [`START_LIMIT`].
    pub start_limit: Duration,
}

impl DeviceSpec {
    /// A device that shows a target as it is: one queue, 128 tags, requests of up to 512 KiB.
    pub fn for_target(target: &dyn Target) -> DeviceSpec {
        let geometry = target.geometry();
        DeviceSpec {
            id: None,
            queues: 1,
            depth: 128,
            max_io_bytes: 512 << 10,
            size_bytes: geometry.size_bytes,
            logical_block_bytes: geometry.logical_block_bytes,
            physical_block_bytes: geometry.physical_block_bytes,
            read_only: geometry.read_only,
            rotational: geometry.rotational,
            volatile_cache: geometry.volatile_cache,
            fua: geometry.fua,
            discard: geometry.discard,
            write_zeroes: geometry.write_zeroes,
            zoned: target.zoned(),
            integrity: target.integrity(),
            dma_align_bytes: None,
            zero_copy_align_bytes: geometry.memory_align_bytes,
            segments: None,
            unprivileged: false,
            recovery: Recovery::Off,
            data_path: DataPath::Auto(target.buffers()),
            shared_memory: Vec::new(),
            threads: Threads::default(),
            queue_options: QueueOptions::default(),
            partition_scan: true,
            cpus: None,
            start_limit: START_LIMIT,
        }
    }

    fn dev_info(&self, buffers: BufferMode) -> DevInfo {
        let mut options = Features::empty();
        options.set(Features::UNPRIVILEGED_DEV, self.unprivileged);
        options.set(Features::ZONED, self.zoned.is_some());
        options.set(Features::INTEGRITY, self.integrity.is_some());
        options.set(Features::PER_IO_DAEMON, self.threads.per_io);
        options.set(Features::BATCH_IO, self.queue_options.batch);
        options.set(Features::NO_AUTO_PART_SCAN, !self.partition_scan);
        DevInfo {
            nr_hw_queues: self.queues,
            queue_depth: self.depth,
            max_io_buf_bytes: self.max_io_bytes,
            dev_id: self.id.unwrap_or(u32::MAX),
            flags: DISPENSABLE | self.recovery.features() | options | buffers.features(),
            ..DevInfo::default()
        }
    }

    /// What the driver says of a device that is there.
    fn of_existing(info: &DevInfo, params: &Params, buffers: BufferMode) -> DeviceSpec {
        let known = DeviceInfo::new(info, params);
        DeviceSpec {
            id: Some(known.id),
            queues: known.queues,
            depth: known.depth,
            max_io_bytes: known.max_io_bytes,
            size_bytes: known.size_bytes,
            logical_block_bytes: known.logical_block_bytes,
            physical_block_bytes: known.physical_block_bytes,
            read_only: known.read_only,
            rotational: known.rotational,
            volatile_cache: known.volatile_cache,
            fua: known.fua,
            discard: known.discard,
            write_zeroes: known.write_zeroes,
            zoned: None, // the next server's target brings them (`take_target`)
            integrity: None,
            dma_align_bytes: Some(known.dma_align_bytes),
            zero_copy_align_bytes: 1,
            segments: params.types.contains(ParamTypes::SEGMENT).then_some(known.segments),
            unprivileged: false, // the driver grants those no recovery
            recovery: Recovery::of(info.flags),
            data_path: DataPath::Only(buffers),
            shared_memory: Vec::new(),
            threads: Threads::default(),
            queue_options: QueueOptions { batch: info.flags.contains(Features::BATCH_IO), ..QueueOptions::default() },
            partition_scan: !info.flags.contains(Features::NO_AUTO_PART_SCAN),
            cpus: None,
            start_limit: START_LIMIT,
        }
    }

    fn block_params(&self) -> Params {
        let mut attributes = Attrs::empty();
        attributes.set(Attrs::READ_ONLY, self.read_only);
        attributes.set(Attrs::ROTATIONAL, self.rotational);
        attributes.set(Attrs::VOLATILE_CACHE, self.volatile_cache);
        attributes.set(Attrs::FUA, self.fua && self.volatile_cache);
        let physical_shift = self.physical_block_bytes.ilog2() as u8;
        let params = Params::new(ParamBasic {
            attrs: attributes,
            logical_bs_shift: self.logical_block_bytes.ilog2() as u8,
            physical_bs_shift: physical_shift,
            io_opt_shift: physical_shift,
            io_min_shift: physical_shift,
            max_sectors: self.max_io_bytes >> SECTOR_SHIFT,
            chunk_sectors: self.zoned.map_or(0, |zoned| (zoned.zone_bytes >> SECTOR_SHIFT) as u32),
            dev_sectors: Sectors(self.size_bytes >> SECTOR_SHIFT),
            ..ParamBasic::default()
        });
        let params = match self.integrity {
            Some(integrity) => params.with_integrity(integrity.param()),
            None => params,
        };
        if let Some(zoned) = self.zoned {
            return params.with_zoned(ParamZoned {
                max_open_zones: zoned.max_open_zones,
                max_active_zones: zoned.max_active_zones,
                max_zone_append_sectors: (zoned.zone_capacity_bytes.min(self.max_io_bytes.into()) >> SECTOR_SHIFT)
                    as u32,
                ..ParamZoned::default()
            });
        }
        if self.read_only || !(self.discard || self.write_zeroes) {
            return params;
        }
        params.with_discard(ParamDiscard {
            discard_granularity: DISCARD_GRANULARITY_BYTES.max(self.logical_block_bytes),
            max_discard_sectors: if self.discard { MAX_CLEAR_SECTORS } else { 0 },
            max_write_zeroes_sectors: if self.write_zeroes { MAX_CLEAR_SECTORS } else { 0 },
            max_discard_segments: 1,
            ..ParamDiscard::default()
        })
    }
}

/// The open `/dev/ublkcN` and what its queues must know. Shared by the queue threads.
#[derive(Debug)]
pub struct CharDevice {
    file: File,
    id: DeviceId,
    queues: u16,
    depth: u16,
    max_io_bytes: u32,
    buffers: BufferMode,
    options: QueueOptions,
    shared_memory: Arc<SharedTable>,
    opcodes: Opcodes,
    is_given_up: AtomicBool,
}

impl CharDevice {
    /// How the kernel numbers the commands for tags.
    pub(crate) fn opcodes(&self) -> Opcodes {
        self.opcodes
    }
    /// N of /dev/ublkcN.
    pub fn id(&self) -> DeviceId {
        self.id
    }
    /// Hardware queues, as the driver granted.
    pub fn queues(&self) -> u16 {
        self.queues
    }
    /// Tags per queue.
    pub fn depth(&self) -> u16 {
        self.depth
    }
    /// Largest request in bytes.
    pub fn max_io_bytes(&self) -> u32 {
        self.max_io_bytes
    }
    /// How data moves.
    pub fn buffers(&self) -> BufferMode {
        self.buffers
    }
    /// How the queues talk to the driver.
    pub fn options(&self) -> QueueOptions {
        self.options
    }
    /// What its users share.
    pub(crate) fn shared_memory(&self) -> &Arc<SharedTable> {
        &self.shared_memory
    }

    /// Has the owners of native queues close their rings at their next turn, without STOP_DEV: the device stays recoverable.
    pub(crate) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
    }
    #[inline]
    pub(crate) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }
}

impl AsFd for CharDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The server's side of one device. Dropping it deletes nothing: see [`Device::delete`].
pub struct Device {
    control: Control,
    spec: DeviceSpec,
    granted: DevInfo,
    params: Params,
    buffers: BufferMode,
    char_device: Option<Arc<CharDevice>>,
    /// What is registered with the driver of `spec.shared_memory`.
    shared_memory: Arc<SharedTable>,
    /// Numbers that the driver has for memory which cannot be mapped any more.
    lost_memory: Vec<u16>,
    /// Taken over, and not live again yet: until then it is the next server's, too.
    is_recovering: bool,
    /// Tags were fetched once: the driver does not take them again (see `renew`).
    was_served: bool,
    is_live: bool,
    is_deleted: bool,
}

impl Device {
    /// ADD_DEV and SET_PARAMS. Nothing is left behind on failure.
    ///
    /// # Errors
    /// [`Error::BadOption`], [`Error::IdInUse`], [`Error::Limit`], [`Error::Permission`], [`Error::Unsupported`] for a recovery that the kernel lacks,
    /// and those of every command.
    pub fn add(control: &Control, spec: DeviceSpec) -> Result<Device, Error> {
        clock::start();
        check_zoned(&spec)?;
        check_integrity(&spec)?;
        check_unprivileged(&spec)?;
        check_memory(&spec)?;
        check_recovery(&spec)?;
        let (granted, buffers) = add_with_granted_mode(control, &spec)?;
        let mut device = Device::new(control, granted, spec.params(buffers), spec, buffers);
        match device.check_grant().and_then(|()| device.set_up()) {
            Ok(()) => Ok(device),
            Err(error) => {
                let _ = control.delete(device.id());
                Err(error)
            }
        }
    }

    /// Takes over a device whose server is gone or has quiesced it. It is as it was made, whoever made it; `open` (which sends
    /// START_USER_RECOVERY), the queues and `start` follow as for a new one. If one of them fails: see [`Device::give_up_recovery`].
    ///
    /// Waits up to ten seconds for the driver to work off the end of the former server.
    ///
    /// # Errors
    /// [`Error::Refused`] for a device that is dead, live, made without recovery, or served in a way that this crate does not know;
    /// [`Error::Busy`] when the former server does not end; [`Error::NoDevice`]; and those of every command.
    pub fn recover(control: &Control, id: DeviceId) -> Result<Device, Error> {
        clock::start();
        let granted = control.wait_recoverable(id, FORMER_SERVER_LIMIT)?;
        let params = control.params(id)?;
        let Some(buffers) = BufferMode::of(granted.flags) else {
            let problem = format!("moves data in a way that is not known here ({})", granted.flags & SERVING);
            return Err(Error::Refused { id, problem, hint: "Recover it with the program that made it." });
        };
        let spec = DeviceSpec::of_existing(&granted, &params, buffers);
        let params = Params { types: params.types - ParamTypes::DEVT, ..params }; // which SET_PARAMS refuses
        Ok(Device { is_recovering: true, ..Device::new(control, granted, params, spec, buffers) })
    }

    fn new(control: &Control, granted: DevInfo, params: Params, spec: DeviceSpec, buffers: BufferMode) -> Device {
        Device {
            control: control.clone(),
            spec,
            granted,
            params,
            buffers,
            char_device: None,
            shared_memory: Arc::new(SharedTable::of(buffers)),
            lost_memory: Vec::new(),
            is_recovering: false,
            was_served: false,
            is_live: false,
            is_deleted: false,
        }
    }

    /// Who serves a device that was recovered, from now on: of `spec` count the threads, the CPUs, and how the queues talk to the driver
    /// (but for batches, which a device has or has not).
    pub fn serve_as(&mut self, spec: DeviceSpec) {
        self.spec.cpus = spec.cpus;
        self.spec.threads = spec.threads;
        self.spec.queue_options = QueueOptions { batch: self.spec.queue_options.batch, ..spec.queue_options };
    }

    /// The integrity data that the device was made with.
    pub fn integrity(&self) -> Option<Integrity> {
        self.granted().integrity
    }

    /// What will serve a device that was recovered: a native target, or None for another kind of server. Its zones and its integrity data
    /// must be those that the device was made with, and its zones known.
    ///
    /// # Errors
    /// [`Error::Refused`] saying what differs.
    pub fn take_target(&mut self, target: Option<&dyn Target>) -> Result<(), Error> {
        let (zoned, integrity) = (target.and_then(Target::zoned), target.and_then(Target::integrity));
        let spec = DeviceSpec { zoned, integrity, ..self.spec.clone() };
        let (has, would_have) = (&self.params, spec.params(self.buffers));
        let zones = |params: &Params| {
            params.types.contains(ParamTypes::ZONED).then_some((params.zoned, params.basic.chunk_sectors))
        };
        let metadata = |params: &Params| params.types.contains(ParamTypes::INTEGRITY).then_some(params.integrity);
        let problem = if zones(has) != zones(&would_have) {
            "was made with other zones than its target has"
        } else if metadata(has) != metadata(&would_have) {
            "was made with other integrity data than its target has"
        } else if zoned.is_some() && target.is_some_and(|target| target.files().is_empty()) {
            "has lost its zones: they were in the memory of its former server"
        } else {
            self.spec = spec;
            return Ok(());
        };
        let hint = "Recover it with what it was made with, or remove it (`ublk del`) and make a new one.";
        Err(Error::Refused { id: self.id(), problem: problem.into(), hint })
    }

    /// N of /dev/ublkbN.
    pub fn id(&self) -> DeviceId {
        self.granted.dev_id
    }
    /// What was asked for.
    pub fn spec(&self) -> &DeviceSpec {
        &self.spec
    }
    /// Features as the driver echoed them.
    pub fn features(&self) -> Features {
        self.granted.flags
    }
    /// How data moves, after negotiation.
    pub fn buffers(&self) -> BufferMode {
        self.buffers
    }
    /// What was granted when it was added, as `Control::info` says it, without asking again.
    pub fn granted(&self) -> DeviceInfo {
        DeviceInfo::new(&self.granted, &self.params)
    }
    /// The control plane it was added through.
    pub fn control(&self) -> &Control {
        &self.control
    }
    /// CPUs whose requests come to this queue.
    ///
    /// # Errors
    /// As [`Control::queue_affinity`].
    pub fn senders(&self, queue: u16) -> Result<Vec<usize>, Error> {
        self.control.queue_affinity(self.id(), queue)
    }
    /// CPUs for the owner of a queue: the caller's, dealt out in turn, or the kernel's affinity of the queue. Empty means anywhere.
    pub fn queue_cpus(&self, queue: u16) -> Vec<usize> {
        match &self.spec.cpus {
            Some(cpus) if !cpus.is_empty() => vec![cpus[usize::from(queue) % cpus.len()]],
            _ => self.senders(queue).unwrap_or_default(),
        }
    }
    /// Between a successful `start` and `stop`. The driver may have stopped it meanwhile; `Control::info` knows.
    pub fn is_live(&self) -> bool {
        self.is_live
    }
    /// Between `recover` and a successful `start`.
    pub fn is_recovering(&self) -> bool {
        self.is_recovering
    }

    /// Opens `/dev/ublkcN` for the queues. The driver lets one process hold it. Of a device that is recovered the driver forgets the former
    /// server first: have everything else ready before.
    ///
    /// # Errors
    /// [`Error::Busy`] when another process keeps it open, [`Error::Permission`], [`Error::InvalidState`] when it is open here.
    pub fn open(&mut self) -> Result<Arc<CharDevice>, Error> {
        let id = self.id();
        if self.char_device.is_some() {
            return Err(Error::InvalidState { id, problem: "is being served already" });
        }
        if self.was_served && !self.is_recovering {
            self.renew()?;
        }
        let file = if self.is_recovering { self.open_recovered()? } else { open_char_device(id)? };
        let char_device = Arc::new(CharDevice {
            file,
            id,
            queues: self.granted.nr_hw_queues,
            depth: self.granted.queue_depth,
            max_io_bytes: self.granted.max_io_buf_bytes,
            buffers: self.buffers,
            options: self.spec.queue_options,
            shared_memory: Arc::clone(&self.shared_memory),
            opcodes: self.control.opcodes(),
            is_given_up: AtomicBool::new(false),
        });
        self.char_device = Some(Arc::clone(&char_device));
        self.was_served = true;
        Ok(char_device)
    }

    /// START_USER_RECOVERY and the char device, which belong together: between the two no other recovery must come, and where the second fails
    /// the device has been in the hands of this one.
    fn open_recovered(&mut self) -> Result<File, Error> {
        let id = self.id();
        // It has a descriptor for that, or it does not begin.
        let spare = File::open("/dev/null").map_err(|source| Error::Kernel {
            id: Some(id),
            call: "open(/dev/null)",
            source,
        })?;
        let turn = self.control.start_recovery(id, FORMER_SERVER_LIMIT)?;
        self.was_served = true;
        drop(spare);
        let opened = open_char_device(id);
        drop(turn);
        if opened.is_err() {
            self.give_up_recovery();
        }
        opened
    }

    /// Replaces a device that was served and stopped by a new one of the same id. The driver never resets the queues of a stopped
    /// device: it would refuse every FETCH and still take START_DEV, and then crash (docs/investigations/restart).
    fn renew(&mut self) -> Result<(), Error> {
        let id = self.id();
        if self.delete_now()? == Deletion::WhenReleased {
            return Err(Error::Busy { what: block_path(id), id: Some(id) });
        }
        self.is_deleted = true; // the number is anybody's until ADD_DEV has given it back
        self.granted = self.control.add(&DeviceSpec { id: Some(id), ..self.spec.clone() }.dev_info(self.buffers))?;
        self.is_deleted = false;
        self.was_served = false;
        self.shared_memory = Arc::new(SharedTable::of(self.buffers));
        self.set_up()
    }

    /// What a device needs before its queues: parameters, and the memory that its users share.
    fn set_up(&mut self) -> Result<(), Error> {
        if self.spec.unprivileged {
            wait_for_rights(self.id(), char_path(self.id()))?;
        }
        self.control.set_params(self.id(), &self.params)?;
        self.check_params()?;
        self.spec.shared_memory.iter().try_for_each(|memory| self.register(memory))
    }

    /// START_DEV, or for a device that is being recovered END_USER_RECOVERY: the block device appears, or goes on. Each queue's owner
    /// must have fetched its tags, with none refused.
    ///
    /// # Errors
    /// [`Error::InvalidState`] when not opened, [`Error::Timeout`], and those of every command.
    pub fn start(&mut self) -> Result<(), Error> {
        if self.char_device.is_none() {
            return Err(Error::InvalidState { id: self.id(), problem: "has no queues yet" });
        }
        if self.is_recovering {
            self.control.end_recovery(self.id(), self.spec.start_limit)?;
        } else {
            self.control.start(self.id(), self.spec.start_limit)?;
        }
        self.is_live = true;
        if std::mem::take(&mut self.is_recovering) {
            self.forget_lost_memory();
        }
        // Whoever hears that it is live will use it.
        if self.spec.unprivileged { wait_for_rights(self.id(), block_path(self.id())) } else { Ok(()) }
    }

    /// STOP_DEV: the block device goes, and every tag comes back to the queues as aborted. Idempotent.
    ///
    /// # Errors
    /// Those of every command; a device that is gone is no error.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.is_live = false;
        if self.is_anothers() {
            return Ok(());
        }
        match self.control.stop(self.id()) {
            Err(Error::NoDevice { .. }) => Ok(()),
            answer => answer,
        }
    }

    /// Gives up `/dev/ublkcN`: call it when the last queue is gone, for the driver waits for that.
    pub fn close_char(&mut self) {
        self.char_device = None;
    }

    /// Ends a recovery that has failed, when its queues are gone: the device waits for the next one. Before Linux 7.0 it is stopped
    /// instead if it was opened, because the driver would crash on the next.
    pub fn give_up_recovery(&mut self) {
        self.close_char();
        if self.is_recovering && self.was_served && !self.control.can_start_recovery_twice() {
            let _ = self.control.stop(self.id());
        }
    }

    /// QUIESCE_DEV (6.16): holds new requests back, and has the queues answer what they have and end. When they are gone, and the char
    /// device is closed, the device waits for the next server.
    ///
    /// # Errors
    /// Those of [`Control::quiesce`].
    pub fn quiesce(&mut self, limit: Duration) -> Result<(), Error> {
        self.control.begin_quiesce(self.id(), limit)?;
        self.is_live = false;
        Ok(())
    }

    /// UPDATE_SIZE (6.16), after its target can serve so much.
    ///
    /// # Errors
    /// Those of [`Control::resize`].
    pub fn resize(&mut self, size_bytes: u64) -> Result<(), Error> {
        self.control.resize(self.id(), size_bytes)?;
        self.spec.size_bytes = size_bytes;
        self.params.basic.dev_sectors = Sectors(size_bytes >> SECTOR_SHIFT);
        Ok(())
    }

    /// DEL_DEV. Idempotent; a device that is gone is no error.
    ///
    /// # Errors
    /// [`Error::InvalidState`] while the char device is open here; those of every command.
    pub fn delete(&mut self) -> Result<Deletion, Error> {
        if self.is_deleted {
            return Ok(Deletion::Done);
        }
        if self.char_device.is_some() {
            return Err(Error::InvalidState { id: self.id(), problem: "is still being served" });
        }
        let deletion = if self.is_anothers() { Deletion::Done } else { self.delete_now()? };
        self.is_deleted = true;
        Ok(deletion)
    }

    /// The number is that of another process's device: this one was deleted from outside, or is the next server's.
    fn is_anothers(&self) -> bool {
        self.is_deleted
            || self.was_served && self.control.info(self.id()).is_ok_and(|info| info.is_served_by_another_process())
    }

    fn delete_now(&self) -> Result<Deletion, Error> {
        match self.control.delete(self.id()) {
            Err(Error::NoDevice { .. }) => Ok(Deletion::Done),
            answer => answer,
        }
    }

    /// A wish that was dropped in silence would be noticed at the worst moment: refuse it now.
    fn check_grant(&self) -> Result<(), Error> {
        let wanted = self.spec.dev_info(self.buffers).flags;
        let missing = wanted - self.granted.flags - DISPENSABLE - Features::QUIESCE;
        let needs =
            FEATURES.iter().filter(|feature| missing.contains(feature.flag)).max_by_key(|feature| feature.since);
        match needs {
            // The driver clears this one for who has CAP_SYS_ADMIN.
            Some(feature) if feature.flag == Features::UNPRIVILEGED_DEV && self.control.has(feature.flag) => {
                let rule = "a process with CAP_SYS_ADMIN makes no unprivileged devices: run it as the user, or leave the wish out";
                Err(Error::BadOption { rule: rule.into() })
            }
            Some(feature) => Err(Error::Unsupported { what: format!("{missing}"), since: feature.since_text }),
            None => Ok(()),
        }
    }
}

/// What a zoned device cannot be: the driver would say EINVAL, or the target's queue that it is the second.
fn check_zoned(spec: &DeviceSpec) -> Result<(), Error> {
    let Some(zoned) = spec.zoned else { return Ok(()) };
    let zones = spec.size_bytes / zoned.zone_bytes;
    let rule = match &spec.data_path {
        _ if spec.queues > 1 => format!("a zoned device has one queue, not {}", spec.queues),
        // The driver numbers the zones of a second request from 0 again, up to Linux 7.2 at least (`ublk_report_zones`).
        _ if zones * size_of::<Zone>() as u64 > u64::from(spec.max_io_bytes) => format!(
            "all {zones} zones are reported in one request, of 64 bytes each, and requests have at most {} bytes; \
             take larger zones or larger requests",
            spec.max_io_bytes
        ),
        _ if spec.queue_options.batch => "a zoned device takes no batches".into(),
        _ if spec.recovery == Recovery::Reissue => {
            "a zoned device has the recovery requeue or fail-io: a write that was done but not answered would come again, before the write pointer"
                .into()
        }
        DataPath::Only(mode) if *mode != BufferMode::UserCopy => {
            format!("a zoned device moves its data by user-copy, not by {}", mode.name())
        }
        _ => return Ok(()),
    };
    Err(Error::BadOption { rule })
}

/// What a device with integrity data cannot be.
fn check_integrity(spec: &DeviceSpec) -> Result<(), Error> {
    let Some(integrity) = spec.integrity else { return Ok(()) };
    integrity.check(spec.logical_block_bytes)?;
    let rule = match &spec.data_path {
        DataPath::Only(mode) if *mode != BufferMode::UserCopy => {
            format!("integrity data moves by user-copy, not by {}", mode.name())
        }
        _ if spec.zoned.is_some() => "a zoned device keeps no integrity data".into(),
        _ => return Ok(()),
    };
    Err(Error::BadOption { rule })
}

/// What a device of an unprivileged user cannot be: the driver would answer EINVAL, or drop it in silence.
fn check_unprivileged(spec: &DeviceSpec) -> Result<(), Error> {
    let rule = match &spec.data_path {
        _ if !spec.unprivileged => return Ok(()),
        _ if spec.recovery != Recovery::Off => {
            "an unprivileged device has no recovery: the driver does not let its user hold requests back".into()
        }
        _ if spec.zoned.is_some() || spec.integrity.is_some() => {
            "an unprivileged device is not zoned and keeps no integrity data: both move by user-copy".into()
        }
        DataPath::Only(mode) if !mode.is_for_unprivileged() => {
            format!("an unprivileged device moves its data by copy or get-data, not by {}", mode.name())
        }
        _ => return Ok(()),
    };
    Err(Error::BadOption { rule })
}

/// What a device that holds requests back for the next server cannot be. Without FUA the block layer makes a write that must be durable of two
/// requests. The driver takes the first for one that is open until the second is answered, which it lets nobody do when it stops the device:
/// it would wait for ever (`ublk_wait_tagset_rqs_idle`).
fn check_recovery(spec: &DeviceSpec) -> Result<(), Error> {
    let flushes_alone = spec.volatile_cache && !spec.fua && !spec.read_only;
    if flushes_alone && matches!(spec.recovery, Recovery::Requeue | Recovery::Reissue) {
        let rule = "a device with a volatile cache and this recovery takes FUA writes, or its stop may never end";
        return Err(Error::BadOption { rule: rule.into() });
    }
    Ok(())
}

/// Time for udev's rules, which start a program, to give the nodes of an unprivileged device to its owner.
const RIGHTS_LIMIT: Duration = Duration::from_secs(10);

/// How often to look whether they are there: nobody tells.
const RIGHTS_POLL: Duration = Duration::from_millis(2);

/// Rights on the nodes of an unprivileged user's device come from udev's rules, in their own time.
fn wait_for_rights(id: DeviceId, path: String) -> Result<(), Error> {
    let deadline = Instant::now() + RIGHTS_LIMIT;
    loop {
        match access(&path, Access::READ_OK | Access::WRITE_OK) {
            Ok(()) => return Ok(()),
            Err(_) if Instant::now() < deadline => std::thread::sleep(RIGHTS_POLL),
            Err(errno) => {
                return Err(Error::Permission { what: path, id: Some(id), errno: errno.raw_os_error() });
            }
        }
    }
}

/// The driver drops unknown features in silence, so the echo decides; a mode that was not granted is tried no further.
fn add_with_granted_mode(control: &Control, spec: &DeviceSpec) -> Result<(DevInfo, BufferMode), Error> {
    let preferred = match &spec.data_path {
        DataPath::Only(mode) => return Ok((add(control, spec, *mode)?, *mode)),
        DataPath::Auto(modes) => modes,
    };
    for &mode in preferred.iter().filter(|mode| !spec.unprivileged || mode.is_for_unprivileged()) {
        let granted = add(control, spec, mode)?;
        if granted.flags.contains(mode.features()) {
            return Ok((granted, mode));
        }
        control.delete(granted.dev_id)?;
    }
    Ok((add(control, spec, BufferMode::Copy)?, BufferMode::Copy))
}

fn add(control: &Control, spec: &DeviceSpec, mode: BufferMode) -> Result<DevInfo, Error> {
    control.add(&spec.dev_info(mode)).map_err(|error| match error {
        // All else that it could mean was checked before.
        Error::Kernel { source, .. } if source.raw_os_error() == Some(libc::EINVAL) && spec.zoned.is_some() => {
            Error::Unsupported { what: "zoned block devices (CONFIG_BLK_DEV_ZONED)".into(), since: "6.6" }
        }
        other => other,
    })
}

fn open_char_device(id: DeviceId) -> Result<File, Error> {
    let path = char_path(id);
    let deadline = Instant::now() + OPEN_LIMIT;
    loop {
        let source = match File::options().read(true).write(true).open(&path) {
            Ok(file) => return Ok(file),
            Err(source) => source,
        };
        match source.raw_os_error() {
            // udev has it open for a moment after ADD_DEV, and a former server's release is worked off late.
            Some(libc::EBUSY | libc::ENOENT) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Some(libc::EBUSY) => return Err(Error::Busy { what: path, id: Some(id) }),
            Some(errno @ (libc::EACCES | libc::EPERM)) => {
                return Err(Error::Permission { what: path, id: Some(id), errno });
            }
            _ => return Err(Error::Kernel { id: Some(id), call: "open(/dev/ublkcN)", source }),
        }
    }
}
