//! A zoned disk in memory. A zone takes memory as it is written, and gives it back when it is reset.

use std::sync::{Arc, Mutex};

use ublk_executor::Mapping;
use ublk_uapi::SECTOR_BYTES;

use super::super::{Geometry, Io, Op, Progress, QueueTarget, Request, Target, ZonedGeometry};
use super::zones::{Refusal, Zones};
use super::{Disk, Lent, report};
use crate::{BufferMode, CharDevice, Error};

/// An empty disk.
pub(super) fn open(disk: Disk) -> Result<Arc<dyn Target>, Error> {
    let store = usize::try_from(disk.size_bytes).ok().and_then(|length| Mapping::new(length).ok());
    let Some(store) = store else {
        return Err(Error::NoMemory { what: format!("a zoned device of {} bytes", disk.size_bytes), id: None });
    };
    let zones = Zones::new(disk.layout, |_| 0);
    Ok(Arc::new(ZonedMemory { disk, store: Arc::new(store), zones: Arc::new(Mutex::new(Some(zones))) }))
}

struct ZonedMemory {
    disk: Disk,
    store: Arc<Mapping>,
    zones: Arc<Mutex<Option<Zones>>>,
}

impl Target for ZonedMemory {
    fn kind(&self) -> &'static str {
        "zoned"
    }

    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn buffers(&self) -> Vec<BufferMode> {
        vec![BufferMode::UserCopy]
    }

    fn zoned(&self) -> Option<ZonedGeometry> {
        Some(self.disk.zoned())
    }

    fn queue(&self, device: &Arc<CharDevice>, _tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        Ok(Box::new(MemoryQueue { zones: Lent::take(&self.zones, device)?, store: Arc::clone(&self.store) }))
    }
}

struct MemoryQueue {
    zones: Lent<Zones>,
    store: Arc<Mapping>,
}

impl QueueTarget for MemoryQueue {
    #[inline]
    fn start(&mut self, _tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let done = match request.op {
            Op::ReportZones => return report(&self.zones.value, request, io),
            Op::ZoneAppend => return self.append(request, io),
            Op::Read => {
                io.copy_from_store(&self.store, request.offset_bytes() as usize, request.len_bytes as usize);
                Ok(request.len_bytes as i32)
            }
            Op::Write => self.write(request, io),
            Op::Flush => Ok(0),
            Op::ZoneOpen => self.zones.value.open(request.start_sector).map(|()| 0),
            Op::ZoneClose => self.zones.value.close(request.start_sector).map(|()| 0),
            Op::ZoneFinish => self.zones.value.finish(request.start_sector).map(|()| 0),
            Op::ZoneReset => self.reset(request.start_sector).map(|()| 0),
            Op::ZoneResetAll => self.reset_all().map(|()| 0),
            Op::Discard | Op::WriteZeroes | Op::Other(_) => return Progress::Done(-libc::EOPNOTSUPP),
        };
        Progress::Done(done.unwrap_or_else(|refusal| -refusal.errno()))
    }
}

impl MemoryQueue {
    fn write(&mut self, request: &Request, io: &mut Io<'_>) -> Result<i32, Refusal> {
        self.zones.value.write(request.start_sector, request.sectors())?;
        io.copy_to_store(&self.store, request.offset_bytes() as usize, request.len_bytes as usize);
        Ok(request.len_bytes as i32)
    }

    fn append(&mut self, request: &Request, io: &mut Io<'_>) -> Progress {
        match self.zones.value.append(request.start_sector, request.sectors()) {
            Ok(sector) => {
                io.copy_to_store(&self.store, (sector * SECTOR_BYTES) as usize, request.len_bytes as usize);
                Progress::Appended(request.len_bytes as i32, sector)
            }
            Err(refusal) => Progress::Done(-refusal.errno()),
        }
    }

    fn reset(&mut self, start: u64) -> Result<(), Refusal> {
        self.zones.value.reset(start)?;
        let zone_bytes = self.zones.value.layout().zone_sectors * SECTOR_BYTES;
        self.store.discard((start * SECTOR_BYTES) as usize, zone_bytes as usize);
        Ok(())
    }

    fn reset_all(&mut self) -> Result<(), Refusal> {
        let layout = *self.zones.value.layout();
        (layout.conventional..layout.zones).try_for_each(|index| self.reset(u64::from(index) * layout.zone_sectors))
    }
}
