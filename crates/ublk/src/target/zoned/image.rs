//! A zoned disk in a file, with its write pointers in `PATH.zones` (`table`).
//!
//! What holds after the server died: each write pointer covers every write that was answered. After the machine died: every write that was
//! flushed, or written with FUA; a write pointer may then be past data that was not, which reads as zeroes. For that,
//! - a write is answered when its data is in the file and its zone's record in the table covers it;
//! - a flush syncs the file, then the table; a FUA write does so for itself;
//! - a zone is reset in the table, on the disk, before its data is given back;
//! - what is past a write pointer when the image is opened was never answered, and is cleared.
//!
//! Of a zone one record is written at a time, so that an older one never follows a newer one. Whoever comes meanwhile waits, and is woken
//! by its end: the next record covers all of them.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{FallocateFlags, fallocate};
use ublk_executor::Mapping;
use ublk_uapi::SECTOR_BYTES;
use zerocopy::IntoBytes;

use super::super::backing::{Backing, FileOptions, failed, rule};
use super::super::transfer::PUNCH_HOLE;
use super::super::{
    BackingIo, BufferAddress, Geometry, Io, Op, Progress, QueueTarget, Request, Target, WOKEN, ZonedGeometry,
};
use super::table::{self, RECORD_BYTES, Record, record_offset};
use super::zones::{Refusal, Zones};
use super::{Disk, Lent, report};
use crate::{BufferMode, CharDevice, Error};

/// Numbers of the files.
const IMAGE: u16 = 0;
const TABLE: u16 = 1;

/// Of the image or the table of a device in use.
const MISSING: &str = "cannot be found, and is not made anew for a device that has data";

/// Zero bytes written into the table at a time when all zones are reset.
const ZEROES_BYTES: u32 = 64 << 10;

/// Opens an image, or makes it if it is missing and need not be there.
pub(super) fn open(disk: Disk, path: &Path, must_exist: bool) -> Result<Arc<dyn Target>, Error> {
    let table_path = table::path_of(path);
    if must_exist {
        check_is_whole(path, disk.size_bytes)?;
    } else {
        check_is_pair(path, &table_path)?;
    }
    let (size_bytes, block_bytes) = (Some(disk.size_bytes), Some(disk.block_bytes));
    let options = FileOptions { size_bytes, create: !must_exist, block_bytes, ..FileOptions::default() };
    let image = Backing::open(path, &options)?;
    match with_table(disk, &image, &table_path, must_exist) {
        Ok((table, state)) => {
            Ok(Arc::new(ZonedImage { disk, file: image.file, table, state: Arc::new(Mutex::new(Some(state))) }))
        }
        Err(error) => {
            image.abandon();
            Err(error)
        }
    }
}

/// Refuses one without the other.
fn check_is_pair(path: &Path, table_path: &Path) -> Result<(), Error> {
    match (std::fs::metadata(path), table_path.exists()) {
        (Ok(image), false) if image.blocks() > 0 => {
            let table = table_path.display();
            Err(rule(path, &format!("has data, but not the table {table} that says how far its zones are written")))
        }
        (Err(_), true) => {
            let problem = format!("is the table of {}, which is missing; remove it to begin anew", path.display());
            Err(rule(table_path, &problem))
        }
        _ => Ok(()),
    }
}

/// Refuses an image that a device in use has lost, or a part of it.
fn check_is_whole(path: &Path, size_bytes: u64) -> Result<(), Error> {
    match std::fs::metadata(path) {
        Ok(image) if image.len() < size_bytes => {
            let has = image.len();
            let problem = format!(
                "has {has} bytes, fewer than the {size_bytes} needed, and is not grown for a device that has data"
            );
            Err(rule(path, &problem))
        }
        Ok(_) => Ok(()),
        Err(source) if source.kind() == ErrorKind::NotFound => Err(rule(path, MISSING)),
        Err(source) => Err(failed(path, "stat", &source)),
    }
}

/// What the table says of the image, which is brought to what it says.
fn with_table(disk: Disk, image: &Backing, table_path: &Path, must_exist: bool) -> Result<(File, State), Error> {
    if image.is_block_device {
        return Err(rule(&image.path, "is no regular file, as the image of a zoned device must be"));
    }
    if !image.can_punch {
        return Err(rule(&image.path, "is on a file system without holes, which give back what a reset zone held"));
    }
    let (table, written) = match table::open(table_path, &disk.layout)? {
        Some(there) => there,
        None if must_exist => return Err(rule(table_path, MISSING)),
        None => (table::create(table_path, &disk.layout)?, vec![0; disk.layout.zones as usize]),
    };
    clear_past_write_pointers(&image.file, &image.path, &disk, &written)?;
    let zones = Zones::new(disk.layout, |index| written[index as usize]);
    let extents = written.iter().map(|&written| Extent { done: written, recorded: written, ..Extent::default() });
    Ok((table, State { zones, extents: extents.collect() }))
}

fn clear_past_write_pointers(file: &File, path: &Path, disk: &Disk, written: &[u64]) -> Result<(), Error> {
    let zone_sectors = disk.layout.zone_sectors;
    for (index, &written) in written.iter().enumerate().skip(disk.layout.conventional as usize) {
        let (start, left) = (index as u64 * zone_sectors + written, zone_sectors - written);
        if left > 0 {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(file, mode, start * SECTOR_BYTES, left * SECTOR_BYTES)
                .map_err(|errno| failed(path, "fallocate", &errno.into()))?;
        }
    }
    Ok(())
}

/// How far the image is with a sequential zone. In sectors from the zone's start.
#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    /// End of the furthest write whose data is in the file.
    done: u64,
    /// What the table says.
    recorded: u64,
    /// What is being written into the table.
    recording: Option<u64>,
    is_resetting: bool,
    /// Writes and finishes that are not answered yet.
    under_way: u32,
}

#[derive(Debug, Default)]
struct State {
    zones: Zones,
    extents: Vec<Extent>,
}

struct ZonedImage {
    disk: Disk,
    file: File,
    table: File,
    state: Arc<Mutex<Option<State>>>,
}

impl Target for ZonedImage {
    fn kind(&self) -> &'static str {
        "zoned"
    }

    fn geometry(&self) -> Geometry {
        Geometry { volatile_cache: true, fua: true, ..self.disk.geometry() }
    }

    fn buffers(&self) -> Vec<BufferMode> {
        vec![BufferMode::UserCopy]
    }

    fn zoned(&self) -> Option<ZonedGeometry> {
        Some(self.disk.zoned())
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.file.as_fd(), self.table.as_fd()]
    }

    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        let mut state = Lent::take(&self.state, device)?;
        for extent in &mut state.value.extents {
            // Of a thread that ended with requests open.
            *extent = Extent { recording: None, is_resetting: false, under_way: 0, ..*extent };
        }
        let memory = |bytes, what: &str| {
            Mapping::new(bytes).map_err(|_| Error::NoMemory { what: what.into(), id: Some(device.id()) })
        };
        Ok(Box::new(ImageQueue {
            state,
            transfers: vec![Transfer::default(); tags as usize],
            records: memory(tags as usize * RECORD_BYTES, "records of zones")?,
            zeroes: memory(ZEROES_BYTES as usize, "a buffer of zeroes")?,
            waiting: Vec::with_capacity(tags as usize),
        }))
    }
}

/// Where a request stands. One operation of it is open at a time.
#[derive(Debug, Clone, Copy, Default)]
struct Transfer {
    step: Step,
    /// Bytes done in this step.
    done: u32,
    zone: u32,
    /// Where its data is on the device: of an append, where it went.
    start_sector: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Step {
    /// Bytes between the request and the file.
    #[default]
    Data,
    SyncData,
    /// The zone's record, or the wait for another one of the same zone.
    Record,
    /// The records of all sequential zones.
    ClearRecords,
    SyncTable,
    /// Gives back what zones held that were reset.
    Punch,
}

/// What came of a step's begin.
enum Begun {
    Operation,
    Wait,
    /// Nothing is to be done.
    Done,
}

struct ImageQueue {
    state: Lent<State>,
    transfers: Vec<Transfer>,
    /// A record for each tag, as it is written.
    records: Mapping,
    zeroes: Mapping,
    /// Tags that wait for the record of another one.
    waiting: Vec<u16>,
}

impl QueueTarget for ImageQueue {
    #[inline]
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let state = &mut self.state.value;
        let start_sector = request.start_sector;
        let Some(zone) = state.zones.index_of(start_sector) else { return Progress::Done(-libc::EIO) };
        let at = |step| Transfer { step, done: 0, zone, start_sector };
        let accepted = match request.op {
            Op::ReportZones => return report(&state.zones, request, io),
            Op::Read => Ok(at(Step::Data)),
            Op::Write => state.write(zone, request).map(|()| at(Step::Data)),
            Op::ZoneAppend => {
                state.append(zone, request).map(|start_sector| Transfer { start_sector, ..at(Step::Data) })
            }
            Op::Flush => Ok(at(Step::SyncData)),
            Op::ZoneOpen => return answer(state.zones.open(start_sector)),
            Op::ZoneClose => return answer(state.zones.close(start_sector)),
            Op::ZoneFinish => state.finish(zone, start_sector).map(|()| at(Step::Record)),
            Op::ZoneReset => state.reset(zone, start_sector).map(|()| at(Step::Record)),
            Op::ZoneResetAll => state.reset_all().map(|()| at(Step::ClearRecords)),
            Op::Discard | Op::WriteZeroes | Op::Other(_) => Err(libc::EOPNOTSUPP),
        };
        match accepted {
            Ok(transfer) => {
                self.transfers[usize::from(tag)] = transfer;
                self.go_on(tag, request, io)
            }
            Err(errno) => Progress::Done(-errno),
        }
    }

    #[inline]
    fn resume(&mut self, tag: u16, request: &Request, part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        if part == WOKEN {
            return self.go_on(tag, request, io);
        }
        let transfer = &mut self.transfers[usize::from(tag)];
        let is_done = match (transfer.step, result) {
            (Step::Record, _) => {
                let is_written = result == RECORD_BYTES as i32;
                self.end_record(tag, is_written, io);
                is_written
            }
            (Step::Data | Step::ClearRecords, 1..) => {
                transfer.done += result as u32;
                transfer.done == self.length(tag, request)
            }
            (Step::SyncData | Step::SyncTable | Step::Punch, 0) => true,
            _ => false,
        };
        if is_done {
            return self.end_step(tag, request, io);
        }
        match result {
            1.. if self.transfers[usize::from(tag)].step != Step::Record => self.go_on(tag, request, io),
            errno if errno == -libc::EAGAIN || errno == -libc::EINTR => self.go_on(tag, request, io),
            0.. => self.end(tag, request, -libc::EIO), // the file became shorter
            errno => self.end(tag, request, errno),
        }
    }
}

impl ImageQueue {
    /// Begins the step that the request is at, or the first of those after it that has something to do.
    fn go_on(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        match self.begin(tag, request, io) {
            Begun::Operation => Progress::Pending,
            Begun::Wait => Progress::Waiting,
            Begun::Done => self.end_step(tag, request, io),
        }
    }

    fn end_step(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let transfer = &mut self.transfers[usize::from(tag)];
        let state = &mut self.state.value;
        match transfer.step {
            Step::Data => state.data_is_there(transfer, request),
            Step::ClearRecords => state.extents.iter_mut().for_each(|extent| extent.recorded = 0),
            _ => {}
        }
        match next_step(transfer.step, request, state.zones.is_conventional(transfer.zone)) {
            Some(step) => {
                *transfer = Transfer { step, done: 0, ..*transfer };
                self.go_on(tag, request, io)
            }
            None => self.end(tag, request, 0),
        }
    }

    fn begin(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Begun {
        let Transfer { step, done, zone, start_sector } = self.transfers[usize::from(tag)];
        let layout = *self.state.value.zones.layout();
        let (offset, left) = (start_sector * SECTOR_BYTES + u64::from(done), self.length(tag, request) - done);
        let zone_bytes = layout.zone_sectors * SECTOR_BYTES;
        match step {
            Step::Data if request.op == Op::Read => {
                io.start(IMAGE, 0, BackingIo::Read { offset, data_offset: done, length: left });
            }
            Step::Data => {
                let is_durable = request.is_fua();
                io.start(IMAGE, 0, BackingIo::Write { offset, data_offset: done, length: left, is_durable });
            }
            Step::SyncData => io.start(IMAGE, 0, BackingIo::Sync),
            Step::SyncTable => io.start(TABLE, 0, BackingIo::Sync),
            Step::Record => return self.begin_record(tag, zone, io),
            Step::ClearRecords => {
                let source = address(&self.zeroes, 0, ZEROES_BYTES as usize);
                let offset = record_offset(layout.conventional) + u64::from(done);
                io.start(TABLE, 0, BackingIo::WriteFrom { source, offset, length: left.min(ZEROES_BYTES) });
            }
            Step::Punch if request.op == Op::ZoneResetAll => {
                let offset = u64::from(layout.conventional) * zone_bytes;
                let length = u64::from(layout.sequential()) * zone_bytes;
                io.start(IMAGE, 0, BackingIo::Allocate { mode: PUNCH_HOLE, offset, length });
            }
            Step::Punch => io.start(IMAGE, 0, BackingIo::Allocate { mode: PUNCH_HOLE, offset, length: zone_bytes }),
        }
        Begun::Operation
    }

    /// Writes the zone's record, unless it is right already or another one is on its way.
    fn begin_record(&mut self, tag: u16, zone: u32, io: &mut Io<'_>) -> Begun {
        let extent = &mut self.state.value.extents[zone as usize];
        if extent.recording.is_some() {
            self.waiting.push(tag);
            return Begun::Wait;
        }
        if extent.recorded == extent.done {
            return Begun::Done;
        }
        extent.recording = Some(extent.done);
        let place = usize::from(tag) * RECORD_BYTES;
        self.records.copy_in(place, Record::new(extent.done).as_bytes());
        let source = address(&self.records, place, RECORD_BYTES);
        let (offset, length) = (record_offset(zone), RECORD_BYTES as u32);
        io.start(TABLE, 0, BackingIo::WriteFrom { source, offset, length });
        Begun::Operation
    }

    /// The tag's record is in the table, or is not; those that waited for it look again.
    fn end_record(&mut self, tag: u16, is_written: bool, io: &mut Io<'_>) {
        let zone = self.transfers[usize::from(tag)].zone;
        let extent = &mut self.state.value.extents[zone as usize];
        let recording = extent.recording.take();
        if is_written {
            extent.recorded = recording.unwrap_or(extent.recorded);
        }
        let transfers = &self.transfers;
        self.waiting.retain(|&waiting| {
            let is_its_own = transfers[usize::from(waiting)].zone == zone;
            if is_its_own {
                io.wake(waiting);
            }
            !is_its_own
        });
    }

    /// Answers the request: with what it has done, or -errno.
    fn end(&mut self, tag: u16, request: &Request, errno: i32) -> Progress {
        let Transfer { zone, start_sector, .. } = self.transfers[usize::from(tag)];
        self.state.value.is_answered(zone, request);
        match request.op {
            _ if errno < 0 => Progress::Done(errno),
            Op::ZoneAppend => Progress::Appended(request.len_bytes as i32, start_sector),
            Op::Read | Op::Write => Progress::Done(request.len_bytes as i32),
            _ => Progress::Done(0),
        }
    }

    /// Bytes of the step.
    fn length(&self, tag: u16, request: &Request) -> u32 {
        match self.transfers[usize::from(tag)].step {
            Step::ClearRecords => self.state.value.zones.layout().sequential() * RECORD_BYTES as u32,
            _ => request.len_bytes,
        }
    }
}

/// What follows when a step is done; None: the answer.
fn next_step(step: Step, request: &Request, is_conventional: bool) -> Option<Step> {
    let is_write = matches!(request.op, Op::Write | Op::ZoneAppend);
    match step {
        Step::Data if is_write && !is_conventional => Some(Step::Record),
        Step::SyncData => Some(Step::SyncTable),
        Step::Record if !is_write || request.is_fua() => Some(Step::SyncTable),
        Step::ClearRecords => Some(Step::SyncTable),
        Step::SyncTable if matches!(request.op, Op::ZoneReset | Op::ZoneResetAll) => Some(Step::Punch),
        Step::Data | Step::Record | Step::SyncTable | Step::Punch => None,
    }
}

impl State {
    fn write(&mut self, zone: u32, request: &Request) -> Result<(), i32> {
        self.check_settled(zone)?;
        self.zones.write(request.start_sector, request.sectors()).map_err(Refusal::errno)?;
        self.extents[zone as usize].under_way += 1;
        Ok(())
    }

    fn append(&mut self, zone: u32, request: &Request) -> Result<u64, i32> {
        self.check_settled(zone)?;
        let sector = self.zones.append(request.start_sector, request.sectors()).map_err(Refusal::errno)?;
        self.extents[zone as usize].under_way += 1;
        Ok(sector)
    }

    fn finish(&mut self, zone: u32, start: u64) -> Result<(), i32> {
        self.check_settled(zone)?;
        self.zones.finish(start).map_err(Refusal::errno)?;
        let extent = &mut self.extents[zone as usize];
        extent.done = self.zones.layout().capacity_sectors;
        extent.under_way += 1;
        Ok(())
    }

    /// Not while writes are on their way: their data would come after it was given back.
    fn reset(&mut self, zone: u32, start: u64) -> Result<(), i32> {
        self.check_settled(zone)?;
        if self.extents[zone as usize].under_way > 0 {
            return Err(libc::EBUSY);
        }
        self.zones.reset(start).map_err(Refusal::errno)?;
        let extent = &mut self.extents[zone as usize];
        extent.done = 0;
        extent.is_resetting = true;
        Ok(())
    }

    fn reset_all(&mut self) -> Result<(), i32> {
        let layout = *self.zones.layout();
        let sequential = layout.conventional as usize..;
        if self.extents[sequential.clone()].iter().any(|extent| extent.is_resetting || extent.under_way > 0) {
            return Err(libc::EBUSY);
        }
        for zone in layout.conventional..layout.zones {
            self.zones.reset(u64::from(zone) * layout.zone_sectors).map_err(Refusal::errno)?;
            let extent = &mut self.extents[zone as usize];
            extent.done = 0;
            extent.is_resetting = true;
        }
        Ok(())
    }

    fn check_settled(&self, zone: u32) -> Result<(), i32> {
        if self.extents[zone as usize].is_resetting { Err(libc::EBUSY) } else { Ok(()) }
    }

    /// A write's data is in the file.
    fn data_is_there(&mut self, transfer: &Transfer, request: &Request) {
        if request.op != Op::Read && !self.zones.is_conventional(transfer.zone) {
            let end = transfer.start_sector - self.zones.start_of(transfer.zone) + request.sectors();
            let extent = &mut self.extents[transfer.zone as usize];
            extent.done = extent.done.max(end);
        }
    }

    fn is_answered(&mut self, zone: u32, request: &Request) {
        let extent = &mut self.extents[zone as usize];
        match request.op {
            Op::Write | Op::ZoneAppend | Op::ZoneFinish => extent.under_way -= 1,
            Op::ZoneReset => extent.is_resetting = false,
            Op::ZoneResetAll => self.extents.iter_mut().for_each(|extent| extent.is_resetting = false),
            _ => {}
        }
    }
}

fn answer(done: Result<(), Refusal>) -> Progress {
    Progress::Done(done.map_or_else(|refusal| -refusal.errno(), |()| 0))
}

#[allow(unsafe_code)]
fn address(memory: &Mapping, offset: usize, length: usize) -> BufferAddress {
    // SAFETY: `address` checked the range. The mapping lives in the target, which outlives the queue, and Rust touches it by raw copies
    // only; a tag's record is written here when no operation of the tag is under way.
    unsafe { BufferAddress::new(memory.address(offset, length)) }
}
