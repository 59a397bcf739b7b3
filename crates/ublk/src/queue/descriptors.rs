//! The queue's request descriptors, mapped read-only from `/dev/ublkcN`.
//!
//! The driver writes a tag's descriptor before it completes the tag's command, and not again until the tag is committed.

#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use ublk_uapi::{IoDesc, descriptor_area_bytes, descriptor_area_offset_bytes};

use super::request::{Op, Request};
use crate::Error;
use crate::device::CharDevice;

pub(super) struct Descriptors {
    start: NonNull<IoDesc>,
    depth: u16,
    length: usize,
}

impl Descriptors {
    /// Maps the area of one queue. The areas lie at a fixed stride, whatever the depth.
    pub(super) fn map(device: &CharDevice, queue: u16) -> Result<Descriptors, Error> {
        let page_bytes = rustix::param::page_size() as u64;
        let length = descriptor_area_bytes(device.depth(), page_bytes) as usize;
        let offset = descriptor_area_offset_bytes(queue, page_bytes);
        // SAFETY: a new shared read-only mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::POPULATE,
                device.as_fd(),
                offset,
            )
        };
        start
            .ok()
            .and_then(|start| NonNull::new(start.cast()))
            .map(|start| Descriptors { start, depth: device.depth(), length })
            .ok_or_else(|| Error::Kernel {
                id: Some(device.id()),
                call: "mmap(/dev/ublkcN)",
                source: std::io::Error::last_os_error(),
            })
    }

    #[inline]
    pub(super) fn read(&self, tag: u16) -> Request {
        assert!(tag < self.depth);
        // SAFETY: `tag` is inside the mapping, which lives as long as `self`. The driver wrote the descriptor before the completion that
        // names the tag (the ring's head is loaded with Acquire) and leaves it alone until the commit; volatile, since another process writes it.
        let descriptor = unsafe { self.start.add(usize::from(tag)).as_ptr().read_volatile() };
        let op = Op::from_code(descriptor.op_code());
        let flags = descriptor.flags();
        if op == Op::Flush {
            return Request { op, flags, ..Request::default() }; // the driver leaves -1 for the sector
        }
        let len_bytes = match op {
            Op::ReportZones => descriptor.nr_zones() * size_of::<ublk_uapi::Zone>() as u32,
            _ => descriptor.nr_sectors << ublk_uapi::SECTOR_SHIFT,
        };
        Request { op, flags, start_sector: descriptor.start_sector.0, len_bytes, shared_at: descriptor.addr }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, unmapped once; nobody else holds the address.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}
