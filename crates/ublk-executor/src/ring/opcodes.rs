//! Which operations this kernel has.

use io_uring::Probe;

/// The kernel is older than an operation, or was built without it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Linux {kernel} has no io_uring operation {name} (number {opcode})")]
pub struct MissingOpcode {
    /// Its number in `io_uring.h`.
    pub opcode: u8,
    /// Its name there, without IORING_OP_.
    pub name: &'static str,
    /// Release of the running kernel, as `uname -r` tells it.
    pub kernel: String,
}

/// The operations of the running kernel: one bit each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opcodes([u64; 4]);

impl Opcodes {
    /// For kernels that cannot be asked (before 5.6): each operation answers for itself.
    pub(crate) const ALL: Opcodes = Opcodes([u64::MAX; 4]);

    pub(super) fn of(probe: &Probe) -> Opcodes {
        let mut opcodes = Opcodes([0; 4]);
        for opcode in (0..=u8::MAX).filter(|&opcode| probe.is_supported(opcode)) {
            opcodes.0[usize::from(opcode / 64)] |= 1 << (opcode % 64);
        }
        opcodes
    }

    /// # Errors
    /// [`MissingOpcode`].
    pub(crate) fn check(&self, opcode: u8) -> Result<(), MissingOpcode> {
        if self.0[usize::from(opcode / 64)] & (1 << (opcode % 64)) != 0 {
            return Ok(());
        }
        let name = NAMES.get(usize::from(opcode)).copied().unwrap_or("of this number");
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        Err(MissingOpcode { opcode, name, kernel })
    }

    #[cfg(test)]
    pub(crate) fn without(mut self, opcode: u8) -> Opcodes {
        self.0[usize::from(opcode / 64)] &= !(1 << (opcode % 64));
        self
    }
}

/// `enum io_uring_op` of io_uring.h, in its order; Linux 6.18.
#[rustfmt::skip]
const NAMES: [&str; 63] = [
    "NOP", "READV", "WRITEV", "FSYNC", "READ_FIXED", "WRITE_FIXED", "POLL_ADD", "POLL_REMOVE", "SYNC_FILE_RANGE", "SENDMSG", "RECVMSG",
    "TIMEOUT", "TIMEOUT_REMOVE", "ACCEPT", "ASYNC_CANCEL", "LINK_TIMEOUT", "CONNECT", "FALLOCATE", "OPENAT", "CLOSE", "FILES_UPDATE",
    "STATX", "READ", "WRITE", "FADVISE", "MADVISE", "SEND", "RECV", "OPENAT2", "EPOLL_CTL", "SPLICE", "PROVIDE_BUFFERS",
    "REMOVE_BUFFERS", "TEE", "SHUTDOWN", "RENAMEAT", "UNLINKAT", "MKDIRAT", "SYMLINKAT", "LINKAT", "MSG_RING", "FSETXATTR", "SETXATTR",
    "FGETXATTR", "GETXATTR", "SOCKET", "URING_CMD", "SEND_ZC", "SENDMSG_ZC", "READ_MULTISHOT", "WAITID", "FUTEX_WAIT", "FUTEX_WAKE",
    "FUTEX_WAITV", "FIXED_FD_INSTALL", "FTRUNCATE", "BIND", "LISTEN", "RECV_ZC", "EPOLL_WAIT", "READV_FIXED", "WRITEV_FIXED", "PIPE",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ring, RingOptions};
    use io_uring::opcode;

    #[test]
    fn the_kernel_is_asked_once_and_what_it_lacks_is_named() {
        let ring: Ring = Ring::new(RingOptions { submissions: 4, completions: 4 }).unwrap();
        let opcodes = ring.opcodes();
        for present in [opcode::Nop::CODE, opcode::Read::CODE, opcode::PollAdd::CODE, opcode::AsyncCancel::CODE] {
            opcodes.check(present).unwrap();
        }
        // 255 is the last of all numbers, far from any operation.
        let missing = opcodes.check(255).unwrap_err();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(missing.kernel, release.trim());
        let missing = opcodes.without(opcode::UringCmd16::CODE).check(opcode::UringCmd16::CODE).unwrap_err();
        assert_eq!((missing.opcode, missing.name), (46, "URING_CMD"));
        opcodes.without(opcode::UringCmd16::CODE).check(opcode::Socket::CODE).unwrap();
    }

    #[test]
    fn names_stand_at_their_numbers() {
        for (code, name) in [
            (opcode::Fsync::CODE, "FSYNC"),
            (opcode::LinkTimeout::CODE, "LINK_TIMEOUT"),
            (opcode::RenameAt::CODE, "RENAMEAT"),
            (opcode::Socket::CODE, "SOCKET"),
            (opcode::FutexWaitV::CODE, "FUTEX_WAITV"),
            (opcode::Listen::CODE, "LISTEN"),
        ] {
            assert_eq!(NAMES[usize::from(code)], name);
        }
    }
}
