//! `zoned`: a zoned disk, in memory or in a file.
//!
//! ```text
//! zones    write pointers, states and limits of the zones: pure
//! memory   a store in memory
//! image    a file, and beside it
//! table      its write pointers, PATH.zones
//! ```
//!
//! The zones belong to one queue thread, without a lock: a write may close a zone that it does not touch (the limit on open zones is the
//! device's), so no split by zone would do, and the write pointer orders a zone's writes anyway. A second queue is an error.
//! Data moves by user copy, as the driver demands of zoned devices.

mod image;
mod memory;
mod table;
mod zones;
#[cfg(test)]
mod zones_tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use zerocopy::IntoBytes;

use super::{Geometry, Io, Progress, Request, Target, ZonedGeometry};
use crate::{CharDevice, Error};
use ublk_uapi::{SECTOR_BYTES, SECTOR_SHIFT};
use zones::{Layout, Zones};

/// Smallest zone: no request that the driver makes by itself is larger.
const MIN_ZONE_BYTES: u64 = 64 << 10;

/// Largest zone: its sectors are a power of two in 32 bits (`chunk_sectors`).
const MAX_ZONE_BYTES: u64 = 1 << 40;

/// Most zones: so many are reported in the largest request.
const MAX_ZONES: u32 = 1 << 19;

/// Capacities are whole pages, so that any logical block divides them.
const CAPACITY_STEP_BYTES: u64 = 4096;

/// Bytes of a zone in a report.
const REPORT_BYTES: usize = size_of::<ublk_uapi::Zone>();

/// What a zoned disk shall be.
#[derive(Debug, Clone, Default)]
pub struct ZonedOptions {
    /// Bytes, whole zones.
    pub size_bytes: u64,
    /// File to keep the data in; made if it is missing. None is memory.
    pub path: Option<PathBuf>,
    /// The file has the data of a device that is in use: nothing of it or of its table is made, or grown. It would be an empty disk
    /// under a file system.
    pub must_exist: bool,
    /// Bytes from one zone to the next, a power of two from 64 KiB to 1 TiB.
    pub zone_bytes: u64,
    /// Bytes that a sequential zone takes, a multiple of 4096 up to its size; None is its size.
    pub zone_capacity_bytes: Option<u64>,
    /// The first so many zones can be written anywhere; fewer than there are.
    pub conventional_zones: u32,
    /// Most open zones; 0 is no limit.
    pub max_open_zones: u32,
    /// Most active (open or closed) zones, at least the open ones; 0 is no limit.
    pub max_active_zones: u32,
    /// Logical block size; None is 512.
    pub block_bytes: Option<u32>,
}

/// A zoned disk.
///
/// # Errors
/// [`Error::BadOption`] naming the rule that an option breaks, [`Error::NoMemory`], [`Error::File`], [`Error::Busy`].
pub fn zoned(options: &ZonedOptions) -> Result<Arc<dyn Target>, Error> {
    let layout = layout(options)?;
    let disk = Disk { layout, size_bytes: options.size_bytes, block_bytes: options.block_bytes.unwrap_or(512) };
    match &options.path {
        None => memory::open(disk),
        Some(path) => image::open(disk, path, options.must_exist),
    }
}

fn layout(options: &ZonedOptions) -> Result<Layout, Error> {
    let &ZonedOptions { size_bytes, zone_bytes, conventional_zones, max_open_zones, max_active_zones, .. } = options;
    let capacity_bytes = options.zone_capacity_bytes.unwrap_or(zone_bytes);
    let check = |holds: bool, rule: &str| if holds { Ok(()) } else { Err(Error::BadOption { rule: rule.into() }) };
    check(
        zone_bytes.is_power_of_two() && (MIN_ZONE_BYTES..=MAX_ZONE_BYTES).contains(&zone_bytes),
        &format!("a zone has a power of two of bytes, 64 KiB to 1 TiB, not {zone_bytes}"),
    )?;
    check(
        size_bytes >= zone_bytes && size_bytes.is_multiple_of(zone_bytes),
        &format!("a zoned device has whole zones: {size_bytes} bytes are no multiple of {zone_bytes}"),
    )?;
    let zones = u32::try_from(size_bytes / zone_bytes).unwrap_or(u32::MAX);
    check(zones <= MAX_ZONES, &format!("{zones} zones are more than {MAX_ZONES}; make them larger"))?;
    check(
        (CAPACITY_STEP_BYTES..=zone_bytes).contains(&capacity_bytes)
            && capacity_bytes.is_multiple_of(CAPACITY_STEP_BYTES),
        &format!("the capacity of a zone is a multiple of 4096 up to its size {zone_bytes}, not {capacity_bytes}"),
    )?;
    check(
        conventional_zones < zones,
        &format!("of {zones} zones at least one is sequential, so {conventional_zones} cannot be conventional"),
    )?;
    check(
        max_open_zones <= zones && max_active_zones <= zones,
        &format!("{zones} zones have no limit of {} zones", max_open_zones.max(max_active_zones)),
    )?;
    check(
        max_active_zones == 0 || max_open_zones <= max_active_zones,
        &format!(
            "open zones are active: at most {max_open_zones} open needs at least so many active, not {max_active_zones}"
        ),
    )?;
    Ok(Layout {
        zone_sectors: zone_bytes >> SECTOR_SHIFT,
        capacity_sectors: capacity_bytes >> SECTOR_SHIFT,
        zones,
        conventional: conventional_zones,
        max_open: max_open_zones,
        max_active: max_active_zones,
    })
}

/// What both forms have in common.
#[derive(Debug, Clone, Copy)]
struct Disk {
    layout: Layout,
    size_bytes: u64,
    block_bytes: u32,
}

impl Disk {
    fn geometry(&self) -> Geometry {
        Geometry {
            logical_block_bytes: self.block_bytes,
            discard: false,
            write_zeroes: false,
            ..Geometry::in_memory(self.size_bytes)
        }
    }

    fn zoned(&self) -> ZonedGeometry {
        ZonedGeometry {
            zone_bytes: self.layout.zone_sectors * SECTOR_BYTES,
            zone_capacity_bytes: self.layout.capacity_sectors * SECTOR_BYTES,
            max_open_zones: self.layout.max_open,
            max_active_zones: self.layout.max_active,
        }
    }
}

/// Writes as many zones into the request's buffer as it asks for and the device has, from the one that holds its first sector on.
fn report(zones: &Zones, request: &Request, io: &mut Io<'_>) -> Progress {
    let Some(first) = zones.index_of(request.start_sector) else { return Progress::Done(-libc::EIO) };
    let wanted = request.len_bytes as usize / REPORT_BYTES;
    let count = wanted.min((zones.layout().zones - first) as usize);
    for place in 0..count {
        io.fill(place * REPORT_BYTES, zones.report(first + place as u32).as_bytes());
    }
    Progress::Done((count * REPORT_BYTES) as i32)
}

/// What one queue thread has, and gives back when it ends, so that a device that was stopped starts with its zones as they were.
struct Lent<T: Default> {
    value: T,
    home: Arc<Mutex<Option<T>>>,
}

impl<T: Default> Lent<T> {
    /// Takes it, or says why a second queue does not get it.
    fn take(home: &Arc<Mutex<Option<T>>>, device: &CharDevice) -> Result<Lent<T>, Error> {
        match home.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(value) => Ok(Lent { value, home: Arc::clone(home) }),
            None => Err(Error::InvalidState {
                id: device.id(),
                problem: "is zoned: its zones belong to one thread, so it has one queue and that one thread",
            }),
        }
    }
}

impl<T: Default> Drop for Lent<T> {
    fn drop(&mut self) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::mem::take(&mut self.value));
    }
}
