//! What the kernel says of devices and of itself: mirrors of `NativeDeviceInfo`, `NativeFeature` and `NativeFeatures` in src/native.ts.

use napi_derive::napi;
use ublk::uapi::{FEATURES, Features};
use ublk::{DeviceInfo, ZoneLimits};

use crate::request_memory::SegmentSpec;
use crate::target::IntegritySpec;

/// One device.
#[napi(object, use_nullable = true, object_from_js = false)]
#[derive(Debug)]
#[allow(unreachable_pub)] // a public method of an exported class returns it
pub struct NativeDeviceInfo {
    /// N of /dev/ublkbN.
    pub id: u32,
    /// dead, live, quiesced or fail_io.
    pub state: String,
    /// Bytes.
    pub size_bytes: i64,
    /// Bytes.
    pub logical_block_bytes: u32,
    /// Bytes.
    pub physical_block_bytes: u32,
    /// Hardware queues.
    pub queues: u32,
    /// Tags per queue.
    pub depth: u32,
    /// Largest request.
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
    /// Alignment of the memory of requests.
    pub dma_align_bytes: u32,
    /// Its shape.
    pub segments: SegmentSpec,
    /// Of a zoned device.
    pub zones: Option<NativeZoneLimits>,
    /// Of a device with integrity data.
    pub integrity: Option<IntegritySpec>,
    /// Major and minor number of /dev/ublkcN.
    pub char_number: String,
    /// Major and minor number of /dev/ublkbN, once it was started.
    pub block_number: Option<String>,
    /// Feature names, lowest bit first.
    pub flags: Vec<String>,
    /// Owner of an unprivileged device.
    pub owner_uid: u32,
    /// Its group.
    pub owner_gid: u32,
}

impl From<DeviceInfo> for NativeDeviceInfo {
    fn from(info: DeviceInfo) -> NativeDeviceInfo {
        NativeDeviceInfo {
            id: info.id,
            state: info.state.to_string(),
            size_bytes: info.size_bytes as i64,
            logical_block_bytes: info.logical_block_bytes,
            physical_block_bytes: info.physical_block_bytes,
            queues: info.queues.into(),
            depth: info.depth.into(),
            max_io_bytes: info.max_io_bytes,
            pid: info.pid,
            read_only: info.read_only,
            volatile_cache: info.volatile_cache,
            fua: info.fua,
            discard: info.discard,
            write_zeroes: info.write_zeroes,
            rotational: info.rotational,
            dma_align_bytes: info.dma_align_bytes,
            segments: info.segments.into(),
            zones: info.zones.map(Into::into),
            integrity: info.integrity.as_ref().map(Into::into),
            char_number: device_number(info.char_number),
            block_number: (info.block_number != (0, 0)).then(|| device_number(info.block_number)),
            flags: flag_names(info.features),
            owner_uid: info.owner_uid,
            owner_gid: info.owner_gid,
        }
    }
}

/// Zones of a device, and what of them may be used at a time; 0 is no limit.
#[napi(object, use_nullable = true, object_from_js = false)]
#[derive(Debug)]
#[allow(unreachable_pub)] // a field of an exported object
pub struct NativeZoneLimits {
    /// Bytes from one zone to the next.
    pub zone_bytes: i64,
    /// Most open zones.
    pub max_open_zones: u32,
    /// Most active zones.
    pub max_active_zones: u32,
    /// Bytes of the largest append.
    pub max_append_bytes: i64,
}

impl From<ZoneLimits> for NativeZoneLimits {
    fn from(limits: ZoneLimits) -> NativeZoneLimits {
        NativeZoneLimits {
            zone_bytes: limits.zone_bytes as i64,
            max_open_zones: limits.max_open_zones,
            max_active_zones: limits.max_active_zones,
            max_append_bytes: limits.max_append_bytes as i64,
        }
    }
}

/// As sysfs writes it.
fn device_number((major, minor): (u32, u32)) -> String {
    format!("{major}:{minor}")
}

/// Names without the UBLK_F_ prefix, lowest bit first; an unknown bit by its number.
pub(crate) fn flag_names(features: Features) -> Vec<String> {
    (0..u64::BITS)
        .filter(|bit| features.bits() & (1 << bit) != 0)
        .map(|bit| match FEATURES.iter().find(|known| known.bit() == bit) {
            Some(known) => known.name.to_owned(),
            None => format!("{:#x}", 1_u64 << bit),
        })
        .collect()
}

/// One feature bit.
#[napi(object, use_nullable = true, object_from_js = false)]
#[derive(Debug)]
pub(crate) struct NativeFeature {
    /// Bit, hexadecimal.
    pub bit: String,
    /// Kernel name.
    pub name: String,
    /// This kernel has it.
    pub here: bool,
    /// First release of Linux with it.
    pub since: String,
}

/// All features.
#[napi(object, use_nullable = true, object_from_js = false)]
#[derive(Debug)]
pub(crate) struct NativeFeatures {
    /// Mask from GET_FEATURES, hexadecimal.
    pub mask: String,
    /// Every known bit.
    pub flags: Vec<NativeFeature>,
}

impl From<Features> for NativeFeatures {
    fn from(here: Features) -> NativeFeatures {
        let flag = |known: &ublk::uapi::FeatureInfo| NativeFeature {
            bit: format!("{:#x}", known.flag.bits()),
            name: known.kernel_name.to_owned(),
            here: here.contains(known.flag),
            since: known.since_text.to_owned(),
        };
        NativeFeatures { mask: format!("{:#x}", here.bits()), flags: FEATURES.iter().map(flag).collect() }
    }
}
