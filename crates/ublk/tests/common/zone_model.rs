//! A zoned disk that counts everything anew at each step: what `zones.rs`, and a device over it, must be equal to.

#![allow(dead_code, unreachable_pub)] // each test program uses its part

use ublk_uapi::ZoneCond::{self, Closed, Empty, ExplicitOpen, Full, ImplicitOpen, NotWritePointer};

/// What is asked of a zone, in sectors from its start.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Write { zone: u64, offset: u64, sectors: u64 },
    WriteAtPointer { zone: u64, sectors: u64 },
    Append { zone: u64, offset: u64, sectors: u64 },
    Open(u64),
    Close(u64),
    Finish(u64),
    Reset(u64),
}

/// Sizes in sectors; of limits, 0 is none.
#[derive(Debug, Clone, Copy)]
pub struct ModelDisk {
    pub zone_sectors: u64,
    pub capacity_sectors: u64,
    pub zones: u32,
    pub conventional: u32,
    pub max_open: u32,
    pub max_active: u32,
}

/// A zone, and when it was opened.
#[derive(Debug, Clone, Copy)]
pub struct ModelZone {
    pub condition: ZoneCond,
    /// Sectors.
    pub written: u64,
    opened: usize,
}

pub struct Model {
    disk: ModelDisk,
    pub zones: Vec<ModelZone>,
    now: usize,
}

/// Of an append, the sector that it went to; of what is refused, the errno.
pub type Answer = Result<Option<u64>, i32>;

impl Model {
    pub fn new(disk: ModelDisk) -> Model {
        let zone = |index| ModelZone {
            condition: if index < disk.conventional { NotWritePointer } else { Empty },
            written: 0,
            opened: 0,
        };
        Model { disk, zones: (0..disk.zones).map(zone).collect(), now: 0 }
    }

    fn count(&self, conditions: &[ZoneCond]) -> u32 {
        self.zones.iter().filter(|zone| conditions.contains(&zone.condition)).count() as u32
    }

    pub fn apply(&mut self, step: Step) -> Answer {
        self.now += 1;
        let (zone, is_management) = match step {
            Step::Write { zone, .. } | Step::WriteAtPointer { zone, .. } => (zone as usize, false),
            Step::Append { zone, .. } | Step::Open(zone) | Step::Close(zone) => (zone as usize, true),
            Step::Finish(zone) | Step::Reset(zone) => (zone as usize, true),
        };
        let Some(&ModelZone { condition, written, .. }) = self.zones.get(zone) else { return Err(libc::EIO) };
        if is_management && condition == NotWritePointer {
            return Err(libc::EIO);
        }
        match step {
            Step::Write { offset, sectors, .. } => self.write(zone, offset, sectors)?,
            Step::WriteAtPointer { sectors, .. } => self.write(zone, written, sectors)?,
            Step::Append { offset, .. } if offset > 0 => return Err(libc::EIO),
            Step::Append { sectors, .. } => {
                self.write(zone, written, sectors)?;
                return Ok(Some(zone as u64 * self.disk.zone_sectors + written));
            }
            Step::Open(_) => match condition {
                ExplicitOpen => {}
                ImplicitOpen => self.zones[zone].condition = ExplicitOpen,
                Empty | Closed => self.open(zone, ExplicitOpen)?,
                _ => return Err(libc::EIO),
            },
            Step::Close(_) => match condition {
                Closed => {}
                ImplicitOpen | ExplicitOpen => self.zones[zone].condition = if written == 0 { Empty } else { Closed },
                _ => return Err(libc::EIO),
            },
            Step::Finish(_) => {
                self.zones[zone] = ModelZone { condition: Full, written: self.disk.capacity_sectors, opened: 0 };
            }
            Step::Reset(_) => self.zones[zone] = ModelZone { condition: Empty, written: 0, opened: 0 },
        }
        Ok(None)
    }

    fn write(&mut self, zone: usize, offset: u64, sectors: u64) -> Result<(), i32> {
        let ModelZone { condition, written, .. } = self.zones[zone];
        if condition == NotWritePointer {
            return if offset + sectors <= self.disk.zone_sectors { Ok(()) } else { Err(libc::EIO) };
        }
        if condition == Full || offset != written || offset + sectors > self.disk.capacity_sectors {
            return Err(libc::EIO);
        }
        if condition == Empty || condition == Closed {
            self.open(zone, ImplicitOpen)?;
        }
        self.zones[zone].written += sectors;
        if self.zones[zone].written == self.disk.capacity_sectors {
            self.zones[zone].condition = Full;
        }
        Ok(())
    }

    fn open(&mut self, zone: usize, condition: ZoneCond) -> Result<(), i32> {
        let ModelDisk { max_open, max_active, .. } = self.disk;
        let active = self.count(&[ImplicitOpen, ExplicitOpen, Closed]);
        if self.zones[zone].condition == Empty && max_active != 0 && active == max_active {
            return Err(libc::EOVERFLOW);
        }
        if max_open != 0 && self.count(&[ImplicitOpen, ExplicitOpen]) == max_open {
            let implicit = self.zones.iter_mut().filter(|zone| zone.condition == ImplicitOpen);
            implicit.min_by_key(|zone| zone.opened).ok_or(libc::ETOOMANYREFS)?.condition = Closed;
        }
        self.zones[zone].condition = condition;
        self.zones[zone].opened = self.now;
        Ok(())
    }
}
