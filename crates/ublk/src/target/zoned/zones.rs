//! The zones of a device and their rules: write pointers, states, limits. Pure: no I/O, no clock, no kernel.
//!
//! The rules are those of the kernel's own zoned disks (null_blk, ZNS): a write is taken only at the write pointer, a zone that is written
//! opens by itself, and one that was opened so is closed again when the limit on open zones asks for it, the oldest first.
//! Nothing here allocates after `new`.

use std::collections::VecDeque;

use ublk_uapi::{Sectors, Zone as ZoneReport, ZoneCond, ZoneType};

/// Sizes of the zones and limits on them. All in sectors of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Layout {
    /// Length of a zone, a power of two.
    pub(super) zone_sectors: u64,
    /// What a sequential zone takes, at most its length.
    pub(super) capacity_sectors: u64,
    /// Zones.
    pub(super) zones: u32,
    /// The first so many zones are conventional.
    pub(super) conventional: u32,
    /// Most open zones; 0 is no limit.
    pub(super) max_open: u32,
    /// Most zones that are open or closed; 0 is no limit.
    pub(super) max_active: u32,
}

impl Layout {
    /// Zones that are no conventional ones.
    pub(super) fn sequential(&self) -> u32 {
        self.zones - self.conventional
    }
}

/// Why a zone does not do what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not at the write pointer, over the end, or nothing that a zone of this kind or state does.
    Invalid,
    /// As many zones are open as may be, and none of them by itself.
    TooManyOpen,
    /// As many zones are active as may be.
    TooManyActive,
}

impl Refusal {
    /// The errno for which the block layer has a status of its own.
    pub(super) fn errno(self) -> i32 {
        match self {
            Refusal::Invalid => libc::EIO,
            Refusal::TooManyOpen => libc::ETOOMANYREFS,
            Refusal::TooManyActive => libc::EOVERFLOW,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Zone {
    condition: ZoneCond,
    /// Sectors written, from the zone's start.
    written: u64,
}

/// All zones of a device.
#[derive(Debug, Default)]
pub(super) struct Zones {
    layout: Layout,
    zones: Vec<Zone>,
    open: u32,
    active: u32,
    /// With a limit on open zones: those that opened by themselves, the oldest first.
    implicit: VecDeque<u32>,
}

impl Zones {
    /// Every sequential zone has the sectors that `written` says: none is empty, the capacity is full, all else is closed.
    pub(super) fn new(layout: Layout, written: impl Fn(u32) -> u64) -> Zones {
        let zone = |index| match (index < layout.conventional, written(index)) {
            (true, _) => Zone { condition: ZoneCond::NotWritePointer, written: 0 },
            (false, 0) => Zone { condition: ZoneCond::Empty, written: 0 },
            (false, all) if all >= layout.capacity_sectors => {
                Zone { condition: ZoneCond::Full, written: layout.capacity_sectors }
            }
            (false, written) => Zone { condition: ZoneCond::Closed, written },
        };
        let zones: Vec<Zone> = (0..layout.zones).map(zone).collect();
        let active = zones.iter().filter(|zone| zone.condition == ZoneCond::Closed).count() as u32;
        let implicit = VecDeque::with_capacity(layout.max_open.min(layout.zones) as usize);
        Zones { layout, zones, open: 0, active, implicit }
    }

    /// Sizes and limits.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The zone that holds `sector`.
    #[inline]
    pub(super) fn index_of(&self, sector: u64) -> Option<u32> {
        let index = sector / self.layout.zone_sectors;
        (index < u64::from(self.layout.zones)).then_some(index as u32)
    }

    /// First sector of a zone.
    #[inline]
    pub(super) fn start_of(&self, index: u32) -> u64 {
        u64::from(index) * self.layout.zone_sectors
    }

    /// True for a zone that takes writes anywhere.
    #[inline]
    pub(super) fn is_conventional(&self, index: u32) -> bool {
        index < self.layout.conventional
    }

    /// A write to `start`: counts as written at once.
    #[inline]
    pub(super) fn write(&mut self, start: u64, sectors: u64) -> Result<(), Refusal> {
        let index = self.index_of(start).ok_or(Refusal::Invalid)?;
        let offset = start - self.start_of(index);
        if self.is_conventional(index) {
            return if sectors <= self.layout.zone_sectors - offset { Ok(()) } else { Err(Refusal::Invalid) };
        }
        if offset != self.zones[index as usize].written {
            return Err(Refusal::Invalid);
        }
        self.advance(index, sectors)
    }

    /// An append to the zone that begins at `start`: where it goes. Counts as written at once.
    #[inline]
    pub(super) fn append(&mut self, start: u64, sectors: u64) -> Result<u64, Refusal> {
        let index = self.sequential(start)?;
        let place = start + self.zones[index as usize].written;
        self.advance(index, sectors)?;
        Ok(place)
    }

    fn advance(&mut self, index: u32, sectors: u64) -> Result<(), Refusal> {
        let zone = self.zones[index as usize];
        let is_full = zone.condition == ZoneCond::Full;
        if is_full || sectors == 0 || sectors > self.layout.capacity_sectors - zone.written {
            return Err(Refusal::Invalid);
        }
        if matches!(zone.condition, ZoneCond::Empty | ZoneCond::Closed) {
            self.open_as(index, ZoneCond::ImplicitOpen)?;
        }
        let written = zone.written + sectors;
        self.zones[index as usize].written = written;
        if written == self.layout.capacity_sectors {
            self.turn_to(index, ZoneCond::Full);
        }
        Ok(())
    }

    /// Opens the zone that begins at `start`, so that it stays open.
    pub(super) fn open(&mut self, start: u64) -> Result<(), Refusal> {
        let index = self.sequential(start)?;
        match self.zones[index as usize].condition {
            ZoneCond::ExplicitOpen => Ok(()),
            ZoneCond::ImplicitOpen => {
                self.turn_to(index, ZoneCond::ExplicitOpen);
                Ok(())
            }
            ZoneCond::Empty | ZoneCond::Closed => self.open_as(index, ZoneCond::ExplicitOpen),
            _ => Err(Refusal::Invalid),
        }
    }

    /// Closes it; one that nothing was written to is empty again.
    pub(super) fn close(&mut self, start: u64) -> Result<(), Refusal> {
        let index = self.sequential(start)?;
        let Zone { condition, written } = self.zones[index as usize];
        match condition {
            ZoneCond::Closed => Ok(()),
            ZoneCond::ImplicitOpen | ZoneCond::ExplicitOpen => {
                self.turn_to(index, if written == 0 { ZoneCond::Empty } else { ZoneCond::Closed });
                Ok(())
            }
            _ => Err(Refusal::Invalid),
        }
    }

    /// Makes it full, whatever was written.
    pub(super) fn finish(&mut self, start: u64) -> Result<(), Refusal> {
        let index = self.sequential(start)?;
        self.zones[index as usize].written = self.layout.capacity_sectors;
        self.turn_to(index, ZoneCond::Full);
        Ok(())
    }

    /// Makes it empty.
    pub(super) fn reset(&mut self, start: u64) -> Result<(), Refusal> {
        let index = self.sequential(start)?;
        self.zones[index as usize].written = 0;
        self.turn_to(index, ZoneCond::Empty);
        Ok(())
    }

    /// A zone as the kernel wants it reported.
    pub(super) fn report(&self, index: u32) -> ZoneReport {
        let Layout { zone_sectors, capacity_sectors, .. } = self.layout;
        let (start, zone) = (self.start_of(index), self.zones[index as usize]);
        let is_conventional = self.is_conventional(index);
        let zone_type = if is_conventional { ZoneType::Conventional } else { ZoneType::SequentialRequired };
        ZoneReport {
            start: Sectors(start),
            len: Sectors(zone_sectors),
            // A full zone's is past its end; a conventional zone has none.
            wp: Sectors(match zone.condition {
                ZoneCond::Full | ZoneCond::NotWritePointer => start + zone_sectors,
                _ => start + zone.written,
            }),
            zone_type: zone_type.code(),
            cond: zone.condition.code(),
            capacity: Sectors(if is_conventional { zone_sectors } else { capacity_sectors }),
            ..ZoneReport::default()
        }
    }

    /// The sequential zone that begins at `start`.
    fn sequential(&self, start: u64) -> Result<u32, Refusal> {
        let index = self.index_of(start).ok_or(Refusal::Invalid)?;
        let is_start = start == self.start_of(index);
        if is_start && !self.is_conventional(index) { Ok(index) } else { Err(Refusal::Invalid) }
    }

    /// Opens a zone that is empty or closed, within the limits.
    fn open_as(&mut self, index: u32, condition: ZoneCond) -> Result<(), Refusal> {
        let Layout { max_open, max_active, .. } = self.layout;
        let is_active = self.zones[index as usize].condition == ZoneCond::Closed;
        if !is_active && max_active > 0 && self.active >= max_active {
            return Err(Refusal::TooManyActive);
        }
        if max_open > 0 && self.open >= max_open {
            let oldest = *self.implicit.front().ok_or(Refusal::TooManyOpen)?;
            self.turn_to(oldest, ZoneCond::Closed);
        }
        self.turn_to(index, condition);
        Ok(())
    }

    /// The one place where a zone changes its state: keeps the counts.
    fn turn_to(&mut self, index: u32, condition: ZoneCond) {
        let former = std::mem::replace(&mut self.zones[index as usize].condition, condition);
        self.open = self.open - u32::from(is_open(former)) + u32::from(is_open(condition));
        self.active = self.active - u32::from(is_active(former)) + u32::from(is_active(condition));
        if self.layout.max_open == 0 {
            return;
        }
        if former == ZoneCond::ImplicitOpen
            && let Some(place) = self.implicit.iter().position(|&open| open == index)
        {
            self.implicit.remove(place);
        }
        if condition == ZoneCond::ImplicitOpen {
            self.implicit.push_back(index);
        }
    }
}

fn is_open(condition: ZoneCond) -> bool {
    matches!(condition, ZoneCond::ImplicitOpen | ZoneCond::ExplicitOpen)
}

fn is_active(condition: ZoneCond) -> bool {
    is_open(condition) || condition == ZoneCond::Closed
}
