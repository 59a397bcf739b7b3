//! What the driver says of a device: GET_DEV_INFO and GET_PARAMS as one record.

use ublk_uapi::{Attrs, DevInfo, DevState, Features, ParamTypes, Params, SECTOR_SHIFT};

use super::Control;
use crate::device::{Segments, dma_align_bytes};
use crate::target::Integrity;
use crate::{DeviceId, Error};

/// One device as the driver knows it.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// N of /dev/ublkbN.
    pub id: DeviceId,
    /// Dead, live, quiesced or failing I/O.
    pub state: DevState,
    /// Size in bytes; 0 before parameters were set.
    pub size_bytes: u64,
    /// Smallest I/O in bytes.
    pub logical_block_bytes: u32,
    /// Preferred I/O in bytes.
    pub physical_block_bytes: u32,
    /// Hardware queues.
    pub queues: u16,
    /// Requests open per queue.
    pub depth: u16,
    /// Largest request in bytes.
    pub max_io_bytes: u32,
    /// Serving process, 0 when none.
    pub pid: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// FLUSH is sent.
    pub volatile_cache: bool,
    /// FUA is passed on.
    pub fua: bool,
    /// DISCARD is sent.
    pub discard: bool,
    /// WRITE_ZEROES is sent.
    pub write_zeroes: bool,
    /// Announced as spinning.
    pub rotational: bool,
    /// Alignment of the memory of requests in bytes.
    pub dma_align_bytes: u32,
    /// Shape of that memory.
    pub segments: Segments,
    /// Of a zoned device.
    pub zones: Option<ZoneLimits>,
    /// Of a device with integrity data; None also for a checksum that is not known here.
    pub integrity: Option<Integrity>,
    /// Features granted.
    pub features: Features,
    /// Owner of an unprivileged device.
    pub owner_uid: u32,
    /// Its group.
    pub owner_gid: u32,
    /// Major and minor number of /dev/ublkcN.
    pub char_number: (u32, u32),
    /// Major and minor number of /dev/ublkbN; zeroes before it was started.
    pub block_number: (u32, u32),
}

/// Zones of a device, and what of them may be used at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneLimits {
    /// Bytes from one zone to the next.
    pub zone_bytes: u64,
    /// Most open zones; 0 is no limit.
    pub max_open_zones: u32,
    /// Most active (open or closed) zones; 0 is no limit.
    pub max_active_zones: u32,
    /// Bytes of the largest append.
    pub max_append_bytes: u64,
}

impl ZoneLimits {
    fn of(params: &Params) -> Option<ZoneLimits> {
        let bytes = |sectors: u32| u64::from(sectors) << SECTOR_SHIFT;
        params.types.contains(ParamTypes::ZONED).then(|| ZoneLimits {
            zone_bytes: bytes(params.basic.chunk_sectors),
            max_open_zones: params.zoned.max_open_zones,
            max_active_zones: params.zoned.max_active_zones,
            max_append_bytes: bytes(params.zoned.max_zone_append_sectors),
        })
    }
}

impl DeviceInfo {
    /// It is another process that serves it, or was the last to do so.
    pub fn is_served_by_another_process(&self) -> bool {
        self.pid != 0 && self.pid != std::process::id()
    }

    pub(crate) fn new(info: &DevInfo, params: &Params) -> DeviceInfo {
        let basic = params.basic;
        let attributes = basic.attrs;
        let clears = |sectors: u32| params.types.contains(ParamTypes::DISCARD) && sectors > 0;
        let has_integrity = params.types.contains(ParamTypes::INTEGRITY);
        DeviceInfo {
            id: info.dev_id,
            state: info.state().unwrap_or(DevState::Dead),
            size_bytes: basic.dev_sectors.to_bytes(),
            logical_block_bytes: block_bytes(basic.logical_bs_shift),
            physical_block_bytes: block_bytes(basic.physical_bs_shift),
            queues: info.nr_hw_queues,
            depth: info.queue_depth,
            max_io_bytes: info.max_io_buf_bytes,
            pid: u32::try_from(info.ublksrv_pid).unwrap_or(0),
            read_only: attributes.contains(Attrs::READ_ONLY),
            volatile_cache: attributes.contains(Attrs::VOLATILE_CACHE),
            fua: attributes.contains(Attrs::FUA),
            discard: clears(params.discard.max_discard_sectors),
            write_zeroes: clears(params.discard.max_write_zeroes_sectors),
            rotational: attributes.contains(Attrs::ROTATIONAL),
            dma_align_bytes: dma_align_bytes(params),
            segments: Segments::of(params),
            zones: ZoneLimits::of(params),
            integrity: has_integrity.then(|| Integrity::of(&params.integrity)).flatten(),
            features: info.flags,
            owner_uid: info.owner_uid,
            owner_gid: info.owner_gid,
            char_number: (params.devt.char_major, params.devt.char_minor),
            block_number: (params.devt.disk_major, params.devt.disk_minor),
        }
    }
}

/// Saturates: the driver takes any shift of the physical block from whoever makes a device.
fn block_bytes(shift: u8) -> u32 {
    1_u32.checked_shl(u32::from(shift)).unwrap_or(u32::MAX)
}

impl Control {
    /// Everything the driver knows of a device.
    ///
    /// # Errors
    /// [`Error::NoDevice`], [`Error::Permission`] and those of every command.
    pub fn info(&self, id: DeviceId) -> Result<DeviceInfo, Error> {
        let info = self.dev_info(id)?;
        let params = self.params(id)?;
        Ok(DeviceInfo::new(&info, &params))
    }
}

/// Every ublk device of this machine, lowest id first. A device that goes away meanwhile is left out, and for an
/// unprivileged caller those of other users.
///
/// # Errors
/// Those of every command.
pub fn list(control: &Control) -> Result<Vec<DeviceInfo>, Error> {
    let mut ids = ids();
    ids.sort_unstable();
    let mut devices = Vec::with_capacity(ids.len());
    for id in ids {
        match control.info(id) {
            Ok(info) => devices.push(info),
            // Gone meanwhile, or another user's.
            Err(Error::NoDevice { .. } | Error::Permission { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(devices)
}

/// Ids from the char devices in sysfs: they exist from ADD_DEV to DEL_DEV.
fn ids() -> Vec<DeviceId> {
    let Ok(entries) = std::fs::read_dir("/sys/class/ublk-char") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("ublkc")?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromBytes;

    use super::*;

    proptest! {
        /// Devices of other programs are listed too, with whatever parameters they were given.
        #[test]
        fn any_device_can_be_described(
            info: [u8; size_of::<DevInfo>()], params in prop::collection::vec(any::<u8>(), size_of::<Params>())
        ) {
            let (info, params) = (DevInfo::read_from_bytes(&info).unwrap(), Params::read_from_bytes(&params).unwrap());
            let described = DeviceInfo::new(&info, &params);
            prop_assert_eq!(described.id, info.dev_id);
            prop_assert!(described.logical_block_bytes > 0 && described.physical_block_bytes > 0);
        }
    }
}
