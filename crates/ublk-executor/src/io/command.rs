//! Commands that a driver or file system gives its own meaning to: `IORING_OP_URING_CMD`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::{opcode, types};

use super::operation::{start, start_wide};
use crate::reactor::OpKind;

/// Sends command `op` with its 16 bytes to the driver of `fd`: the driver's answer, `fd`, and what was held for it. Starts when first
/// polled.
///
/// Cancel-safety: dropping the future gives up the answer; `fd` and `held` stay with the ring until the driver has answered. The kernel
/// cannot cancel it, so it is for commands that end by themselves.
///
/// # Safety
/// The command may make the driver read and write memory only where `held` owns it, at addresses that do not change when `held` moves, or
/// where no Rust value is.
///
/// # Errors
/// The driver's; EOPNOTSUPP where `fd` takes no commands. Unsupported with [`crate::MissingOpcode`] before Linux 5.19.
///
/// # Panics
/// Outside of an executor, or when the executor of its first poll has ended.
pub async unsafe fn uring_cmd16<F: AsFd + 'static, H: 'static>(
    fd: F,
    op: u32,
    command: [u8; 16],
    held: H,
) -> (io::Result<u32>, F, H) {
    let entry = opcode::UringCmd16::new(types::Fd(fd.as_fd().as_raw_fd()), op).cmd(command).build();
    // SAFETY: the caller's promise; the operation owns the descriptor.
    let (result, (fd, held)) = unsafe { start(entry, OpKind::Bounded, (fd, held)) }.await;
    (result, fd, held)
}

/// [`uring_cmd16`] of 80 bytes, cancel-safety and all, for executors made with [`crate::executor::Builder::wide_entries`].
///
/// # Safety
/// As there.
///
/// # Errors
/// As there. Unsupported with [`crate::RingError::Narrow`] on an executor with entries of 64 bytes.
///
/// # Panics
/// As there.
pub async unsafe fn uring_cmd80<F: AsFd + 'static, H: 'static>(
    fd: F,
    op: u32,
    command: [u8; 80],
    held: H,
) -> (io::Result<u32>, F, H) {
    let entry = opcode::UringCmd80::new(types::Fd(fd.as_fd().as_raw_fd()), op).cmd(command).build();
    // SAFETY: as in `uring_cmd16`.
    let (result, (fd, held)) = unsafe { start_wide(entry, OpKind::Bounded, (fd, held)) }.await;
    (result, fd, held)
}
