//! Makes a ring: the strongest flags that the kernel takes, and a short number for its descriptor.

use io_uring::{IoUring, cqueue, squeue};

use super::{RingError, RingOptions};

const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// Sets of set-up flags, newest first: SINGLE_ISSUER with DEFER_TASKRUN (6.1) and NO_SQARRAY (6.6) down to none (5.1).
/// With it, whether completions are deferred to turns.
pub(super) fn build<S: squeue::EntryMarker>(
    options: RingOptions,
) -> Result<(IoUring<S, cqueue::Entry>, bool), RingError> {
    let mut refused = None;
    for level in (0..=3).rev() {
        let mut builder = IoUring::<S, cqueue::Entry>::builder();
        builder
            .dontfork()
            .setup_clamp()
            .setup_cqsize(options.completions.checked_next_power_of_two().unwrap_or(1 << 31));
        if level >= 1 {
            builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
        }
        if level >= 2 {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        if level >= 3 {
            builder.setup_no_sqarray();
        }
        #[cfg(test)]
        let built = super::faults::setup().and_then(|()| builder.build(options.submissions));
        #[cfg(not(test))]
        let built = builder.build(options.submissions);
        match built {
            Ok(io) => return Ok((io, level >= 2)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
            Err(error) => return Err(RingError::of_setup(error, options.submissions)),
        }
    }
    let source = refused.unwrap_or_else(|| std::io::Error::from_raw_os_error(libc::EINVAL));
    Err(RingError::Kernel { call: "io_uring_setup", source })
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// Puts the ring's descriptor into one of the thread's 16 slots, which saves a lookup per enter. None: no slot, or a kernel before 5.18.
pub(super) fn register_ring_fd(ring_fd: libc::c_int) -> Option<libc::c_int> {
    let mut update = RingFdUpdate { offset: u32::MAX, reserved: 0, data: ring_fd as u64 };
    // SAFETY: the kernel reads and writes one `update`, which lives across the call.
    let done = unsafe { libc::syscall(libc::SYS_io_uring_register, ring_fd, REGISTER_RING_FDS, &raw mut update, 1) };
    (done == 1).then_some(update.offset as libc::c_int)
}

pub(super) fn unregister_ring_fd(ring_fd: libc::c_int, index: libc::c_int) {
    let update = RingFdUpdate { offset: index as u32, reserved: 0, data: 0 };
    // SAFETY: the kernel reads one `update`, which lives across the call; the index is this thread's own.
    unsafe { libc::syscall(libc::SYS_io_uring_register, ring_fd, UNREGISTER_RING_FDS, &raw const update, 1) };
}
