//! Why a ring does not work, and what to do about it.

use std::io;

use rustix::process::{Resource, getrlimit};

const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// Why a ring could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// EPERM, EACCES or ENOSYS from io_uring_setup: the sysctl `kernel.io_uring_disabled`, or seccomp (containers).
    #[error("io_uring is switched off here ({source}): {}", why_disabled(*sysctl))]
    Disabled {
        /// Value of `kernel.io_uring_disabled`: 0 allows all, 1 some, 2 nobody. None: a kernel without it (before 6.6), or no /proc.
        sysctl: Option<u8>,
        /// The kernel's answer.
        source: io::Error,
    },
    /// ENOMEM: on kernels that charge rings to RLIMIT_MEMLOCK, or no memory at all.
    #[error("no memory for an io_uring of {entries} entries ({source}): {}", how_to_raise(*limit_bytes))]
    NoMemory {
        /// Submission entries asked for.
        entries: u32,
        /// RLIMIT_MEMLOCK of this process; None: no limit.
        limit_bytes: Option<u64>,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A chain of linked operations is submitted at once, so it must fit into the submission queue.
    #[error("{chain} linked operations do not fit into a submission queue of {entries} entries")]
    ChainTooLong {
        /// Operations in the chain.
        chain: usize,
        /// Entries of the queue.
        entries: usize,
    },
    /// An 80-byte command, on a ring whose entries have room for 16.
    #[error(
        "the ring's entries hold 16 bytes of a command, not 80: make the executor with `Builder::wide_entries(true)`"
    )]
    Narrow,
    /// Any other kernel answer.
    #[error("{call}: {source}")]
    Kernel {
        /// System call, and its operation where it has several.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl RingError {
    /// The errno below, positive; None where no system call has failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            RingError::Disabled { source, .. }
            | RingError::NoMemory { source, .. }
            | RingError::Kernel { source, .. } => source.raw_os_error(),
            RingError::ChainTooLong { .. } | RingError::Narrow => None,
        }
    }

    /// The kernel's answer to io_uring_setup.
    pub(super) fn of_setup(source: io::Error, entries: u32) -> RingError {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => RingError::Disabled { sysctl: sysctl(), source },
            Some(libc::ENOMEM) => {
                RingError::NoMemory { entries, limit_bytes: getrlimit(Resource::Memlock).current, source }
            }
            _ => RingError::Kernel { call: "io_uring_setup", source },
        }
    }
}

impl From<RingError> for io::Error {
    /// The errno where there is one; else the error itself, to be found by [`io::Error::get_ref`].
    fn from(error: RingError) -> io::Error {
        let kind = match &error {
            RingError::Narrow => io::ErrorKind::Unsupported,
            RingError::ChainTooLong { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        error.errno().map_or_else(|| io::Error::new(kind, error), io::Error::from_raw_os_error)
    }
}

fn sysctl() -> Option<u8> {
    std::fs::read_to_string(SYSCTL).ok()?.trim().parse().ok()
}

fn why_disabled(sysctl: Option<u8>) -> String {
    match sysctl {
        Some(0) => "kernel.io_uring_disabled is 0, so it is a seccomp filter; in a container, allow io_uring_setup, io_uring_enter \
                    and io_uring_register in its profile"
            .into(),
        Some(1) => "kernel.io_uring_disabled is 1; run with CAP_SYS_ADMIN, join the group kernel.io_uring_group, or set it to 0".into(),
        Some(value) => format!("kernel.io_uring_disabled is {value}; run `sysctl kernel.io_uring_disabled=0` as root"),
        None => "there is no kernel.io_uring_disabled, so it is a seccomp filter, or a kernel built without io_uring".into(),
    }
}

fn how_to_raise(limit_bytes: Option<u64>) -> String {
    match limit_bytes {
        Some(limit) => format!(
            "RLIMIT_MEMLOCK is {limit} bytes; raise it (`ulimit -l`, or LimitMEMLOCK= of the service), or run with CAP_IPC_LOCK"
        ),
        None => "RLIMIT_MEMLOCK is unlimited, so the machine or its memory cgroup has no more".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_setup(errno: i32) -> RingError {
        RingError::of_setup(io::Error::from_raw_os_error(errno), 64)
    }

    #[test]
    fn no_memory_names_the_limit_of_this_process_and_how_to_raise_it() {
        let error = of_setup(libc::ENOMEM);
        let RingError::NoMemory { entries: 64, limit_bytes, .. } = &error else { panic!("{error:?}") };
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let limit = limits.lines().find(|line| line.starts_with("Max locked memory")).unwrap();
        let soft = limit.split_whitespace().nth(3).unwrap();
        assert_eq!(limit_bytes.map_or("unlimited".into(), |bytes| bytes.to_string()), soft);
        let text = how_to_raise(Some(8 << 20));
        for part in ["8388608 bytes", "ulimit -l", "LimitMEMLOCK=", "CAP_IPC_LOCK"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(how_to_raise(None).contains("unlimited"));
        assert!(error.to_string().contains(&how_to_raise(*limit_bytes)), "{error}");
    }

    #[test]
    fn a_ring_that_is_forbidden_names_the_sysctl_or_seccomp() {
        for errno in [libc::EPERM, libc::ENOSYS, libc::EACCES] {
            let error = of_setup(errno);
            let RingError::Disabled { sysctl: value, .. } = &error else { panic!("{error:?}") };
            let now = std::fs::read_to_string(SYSCTL).map(|text| text.trim().to_owned());
            assert_eq!(value.map(|value| value.to_string()), now.ok());
            assert_eq!(error.errno(), Some(errno));
            assert!(error.to_string().contains(&why_disabled(*value)), "{error}");
        }
        for (value, part) in [(Some(0), "seccomp"), (Some(1), "io_uring_group"), (Some(2), "is 2"), (None, "seccomp")] {
            assert!(why_disabled(value).contains(part));
        }
    }
}
