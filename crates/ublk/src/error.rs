//! What can go wrong, to which device, and what to do next.
//!
//! Every error has a stable code (`ERR_UBLK_…`), which TypeScript passes on, a message that names the value and the rule, and a hint.

use std::time::Duration;

use ublk_executor::{ExecutorError, RingError};
use ublk_uapi::CtrlOp;

use crate::DeviceId;

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `ERR_UBLK_DRIVER_MISSING`
    #[error("the ublk driver is not loaded: /dev/ublk-control is missing")]
    DriverMissing,
    /// `ERR_UBLK_PERMISSION`
    #[error("no permission for {what}")]
    Permission {
        /// File or command refused.
        what: String,
        /// Device, if one was meant.
        id: Option<DeviceId>,
        /// EPERM or EACCES.
        errno: i32,
    },
    /// `ERR_UBLK_IO_URING_DISABLED`
    #[error("io_uring is switched off here ({reason})")]
    IoUringDisabled {
        /// The kernel's answer.
        reason: String,
        /// EPERM or ENOSYS.
        errno: i32,
    },
    /// `ERR_UBLK_NO_MEMORY`
    #[error("no memory for {what}")]
    NoMemory {
        /// What was to be allocated.
        what: String,
        /// Device, if one was meant.
        id: Option<DeviceId>,
    },
    /// `ERR_UBLK_LIMIT`
    #[error("the driver's limit on devices is reached (ublks_max)")]
    Limit,
    /// `ERR_UBLK_ID_IN_USE`
    #[error("device {id} exists already")]
    IdInUse {
        /// The id asked for.
        id: DeviceId,
    },
    /// `ERR_UBLK_NO_DEVICE`
    #[error("device {id} does not exist")]
    NoDevice {
        /// The id asked for.
        id: DeviceId,
    },
    /// `ERR_UBLK_BUSY`
    #[error("{what} is in use by another process")]
    Busy {
        /// File that is held.
        what: String,
        /// Device, if one was meant.
        id: Option<DeviceId>,
    },
    /// `ERR_UBLK_TIMEOUT`
    #[error("device {id}: {op} gave no answer within {} ms", limit.as_millis())]
    Timeout {
        /// Device.
        id: DeviceId,
        /// Command that was cancelled.
        op: CtrlOp,
        /// Time it had.
        limit: Duration,
    },
    /// `ERR_UBLK_KERNEL_STUCK`
    #[error("device {id}: {op} gave no answer within {} ms and cannot be cancelled: the kernel is stuck", limit.as_millis())]
    KernelStuck {
        /// Device.
        id: DeviceId,
        /// Command that hangs.
        op: CtrlOp,
        /// Time it had.
        limit: Duration,
    },
    /// `ERR_UBLK_TIMEOUT`
    #[error("device {id}: {op} gave no answer within {} ms: process {pid}, which serves it, does not answer its requests", limit.as_millis())]
    ServerSilent {
        /// Device.
        id: DeviceId,
        /// Process.
        pid: u32,
        /// Command that waits.
        op: CtrlOp,
        /// Time it had.
        limit: Duration,
    },
    /// `ERR_UBLK_INVALID_STATE`
    #[error("device {id} {problem}")]
    InvalidState {
        /// Device.
        id: DeviceId,
        /// What it is or is not.
        problem: &'static str,
    },
    /// `ERR_UBLK_INVALID_STATE`
    #[error("device {id} {problem}")]
    Refused {
        /// Device.
        id: DeviceId,
        /// What it is, or what it lacks.
        problem: String,
        /// What to do next.
        hint: &'static str,
    },
    /// `ERR_UBLK_UNSUPPORTED`
    #[error("this kernel has no {what}")]
    Unsupported {
        /// Command or feature.
        what: String,
        /// Kernel release that has it.
        since: &'static str,
    },
    /// `ERR_UBLK_INVALID_OPTION`
    #[error("{rule}")]
    BadOption {
        /// The rule, with the value that breaks it.
        rule: String,
    },
    /// `ERR_UBLK_FILE`
    #[error("{path}: {problem}")]
    File {
        /// Path as given.
        path: String,
        /// Sentence that names the rule.
        problem: String,
        /// System call that failed, if one did.
        syscall: Option<&'static str>,
        /// Positive errno, if a system call failed.
        errno: Option<i32>,
    },
    /// `ERR_UBLK_NBD`
    #[error("NBD server {server}: {problem}")]
    Nbd {
        /// Its address.
        server: String,
        /// Sentence.
        problem: String,
        /// Positive errno, if a system call failed.
        errno: Option<i32>,
    },
    /// `ERR_UBLK_NBD_TLS`
    #[error("NBD server {server}: {problem}")]
    NbdTls {
        /// Its address.
        server: String,
        /// Sentence.
        problem: String,
        /// What to do next.
        hint: &'static str,
    },
    /// `ERR_UBLK_KERNEL`
    #[error("{}{call} failed: {}", id.map(|id| format!("device {id}: ")).unwrap_or_default(), words(source))]
    Kernel {
        /// Device, if one was meant.
        id: Option<DeviceId>,
        /// Control command or system call.
        call: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// Stable code, part of the API.
    pub fn code(&self) -> &'static str {
        match self {
            Error::DriverMissing => "ERR_UBLK_DRIVER_MISSING",
            Error::Permission { .. } => "ERR_UBLK_PERMISSION",
            Error::IoUringDisabled { .. } => "ERR_UBLK_IO_URING_DISABLED",
            Error::NoMemory { .. } => "ERR_UBLK_NO_MEMORY",
            Error::Limit => "ERR_UBLK_LIMIT",
            Error::IdInUse { .. } => "ERR_UBLK_ID_IN_USE",
            Error::NoDevice { .. } => "ERR_UBLK_NO_DEVICE",
            Error::Busy { .. } => "ERR_UBLK_BUSY",
            Error::Timeout { .. } | Error::ServerSilent { .. } => "ERR_UBLK_TIMEOUT",
            Error::KernelStuck { .. } => "ERR_UBLK_KERNEL_STUCK",
            Error::InvalidState { .. } | Error::Refused { .. } => "ERR_UBLK_INVALID_STATE",
            Error::Unsupported { .. } => "ERR_UBLK_UNSUPPORTED",
            Error::BadOption { .. } => "ERR_UBLK_INVALID_OPTION",
            Error::File { .. } => "ERR_UBLK_FILE",
            Error::Nbd { .. } => "ERR_UBLK_NBD",
            Error::NbdTls { .. } => "ERR_UBLK_NBD_TLS",
            Error::Kernel { .. } => "ERR_UBLK_KERNEL",
        }
    }

    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Error::DriverMissing => {
                "Run `modprobe ublk_drv` as root; ublk needs Linux 6.1 or later with CONFIG_BLK_DEV_UBLK.".into()
            }
            Error::Permission { what, id: Some(id), .. } if what.starts_with("/dev/ublkc") => {
                format!("Unprivileged devices need udev's rules: `ublk udev` prints them. Until then only root can remove this one: `ublk del {id}`.")
            }
            Error::Permission { .. } => {
                "Run as root, or with CAP_SYS_ADMIN and CAP_DAC_OVERRIDE; or let `ublk udev` print the rules for unprivileged devices, and use --unprivileged.".into()
            }
            Error::IoUringDisabled { .. } => {
                "Set `sysctl kernel.io_uring_disabled=0`; in a container, allow the io_uring system calls in its seccomp profile.".into()
            }
            Error::NoMemory { .. } => {
                "Use a smaller depth, maxIoBytes or device, or raise the memlock limit (`ulimit -l`).".into()
            }
            Error::Limit => {
                "Delete devices that nobody uses, or raise the limit: `echo N > /sys/module/ublk_drv/parameters/ublks_max`.".into()
            }
            Error::IdInUse { id } => format!("Choose another id, leave it out, or delete the device: `ublk del {id}`."),
            Error::NoDevice { .. } => "`ublk list` shows the devices that exist.".into(),
            Error::Busy { .. } => "Stop the other user first; `fuser -v FILE` names it.".into(),
            Error::Timeout { .. } => "Is a backend not answering? `ublk stats` shows requests in flight.".into(),
            Error::KernelStuck { .. } => {
                "Look at `dmesg` for an oops of ublk_drv; some 6.17 and 6.18 kernels have this fault, and only a reboot mends it.".into()
            }
            // No plain `kill`: a server of ours removes its device then.
            Error::ServerSilent { id, pid, op: CtrlOp::QuiesceDev, .. } => format!(
                "New requests wait. Ask again; or `kill -9 {pid}`, then `ublk recover {id}`: what waits goes on with the next server."
            ),
            // A process that is killed while its own STOP_DEV waits may never end.
            Error::ServerSilent { pid, .. } if *pid == std::process::id() => {
                "Is a backend not answering? `ublk stats` shows requests in flight. The stop goes on: do not kill -9 this process.".into()
            }
            Error::ServerSilent { id, pid, .. } => {
                format!("`kill -9 {pid}`: the kernel then fails what is open. `ublk del {id}` removes the device.")
            }
            Error::InvalidState { .. } => "Check `state` before the call.".into(),
            Error::Refused { hint, .. } | Error::NbdTls { hint, .. } => (*hint).into(),
            Error::Unsupported { since, .. } => format!("It needs Linux {since} or later."),
            Error::BadOption { .. } => "Change the options so that they fit each other.".into(),
            Error::File { errno: Some(libc::ENOENT), .. } => "Check the path, or ask for the file to be created with a size.".into(),
            Error::File { errno: Some(libc::EACCES | libc::EPERM | libc::EROFS), .. } => {
                "Check the file's rights, or ask for a read-only device.".into()
            }
            Error::File { .. } => "Check the path, its size and its file system.".into(),
            Error::Nbd { errno: Some(_), .. } => "Is the server running, and can it be reached from here?".into(),
            Error::Nbd { .. } => "`nbdinfo URI` shows what the server offers.".into(),
            Error::Kernel { .. } => "`dmesg` may say more.".into(),
        }
    }

    /// Negative errno, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        let positive = match self {
            Error::DriverMissing => Some(libc::ENOENT),
            Error::Permission { errno, .. } | Error::IoUringDisabled { errno, .. } => Some(*errno),
            Error::NoMemory { .. } => Some(libc::ENOMEM),
            Error::Limit => Some(libc::EACCES),
            Error::IdInUse { .. } => Some(libc::EEXIST),
            Error::NoDevice { .. } => Some(libc::ENODEV),
            Error::Busy { .. } => Some(libc::EBUSY),
            Error::Timeout { .. } | Error::KernelStuck { .. } | Error::ServerSilent { .. } => Some(libc::ETIMEDOUT),
            Error::InvalidState { .. } | Error::Refused { .. } | Error::BadOption { .. } | Error::NbdTls { .. } => None,
            Error::Unsupported { .. } => Some(libc::EOPNOTSUPP),
            Error::File { errno, .. } | Error::Nbd { errno, .. } => *errno,
            Error::Kernel { source, .. } => source.raw_os_error(),
        };
        positive.map(|errno| -errno)
    }

    /// Control command or system call that failed.
    pub fn syscall(&self) -> Option<&'static str> {
        match self {
            Error::DriverMissing => Some("open"),
            Error::IoUringDisabled { .. } => Some("io_uring_setup"),
            Error::Limit | Error::IdInUse { .. } => Some(CtrlOp::AddDev.name()),
            Error::Timeout { op, .. } | Error::KernelStuck { op, .. } | Error::ServerSilent { op, .. } => {
                Some(op.name())
            }
            Error::File { syscall, .. } => *syscall,
            Error::Kernel { call, .. } => Some(call),
            _ => None,
        }
    }

    /// Device that the failed call was about.
    pub fn device_id(&self) -> Option<DeviceId> {
        match self {
            Error::IdInUse { id } | Error::NoDevice { id } => Some(*id),
            Error::Timeout { id, .. }
            | Error::KernelStuck { id, .. }
            | Error::ServerSilent { id, .. }
            | Error::InvalidState { id, .. }
            | Error::Refused { id, .. } => (*id != u32::MAX).then_some(*id),
            Error::Permission { id, .. }
            | Error::NoMemory { id, .. }
            | Error::Busy { id, .. }
            | Error::Kernel { id, .. } => *id,
            _ => None,
        }
    }

    /// A ring that could not be made or used.
    pub(crate) fn from_ring(error: RingError, id: Option<DeviceId>) -> Error {
        match error {
            RingError::Disabled { source, .. } => {
                Error::IoUringDisabled { reason: words(&source), errno: source.raw_os_error().unwrap_or(libc::ENOSYS) }
            }
            RingError::NoMemory { entries, .. } => {
                Error::NoMemory { what: format!("an io_uring of {entries} entries"), id }
            }
            RingError::Kernel { call, source } => Error::Kernel { id, call, source },
            other @ (RingError::ChainTooLong { .. } | RingError::Narrow) => {
                Error::Kernel { id, call: "io_uring_enter", source: other.into() }
            }
        }
    }

    pub(crate) fn from_executor(error: ExecutorError, id: Option<DeviceId>) -> Error {
        match error {
            ExecutorError::Ring(error) => Error::from_ring(error, id),
            ExecutorError::Signal(source) => Error::Kernel { id, call: "eventfd2", source },
        }
    }

    /// The driver's answer `errno` (positive) to a control command.
    pub(crate) fn from_answer(op: CtrlOp, dev_id: u32, errno: i32) -> Error {
        let id = (dev_id != u32::MAX).then_some(dev_id);
        match (op, errno) {
            (_, libc::ENODEV) if op != CtrlOp::AddDev => Error::NoDevice { id: dev_id },
            // The char device that the command is sent the path of is gone already: the device is being deleted.
            (CtrlOp::GetDevInfo2, libc::ENOENT) => Error::NoDevice { id: dev_id },
            (CtrlOp::AddDev, libc::EEXIST) => Error::IdInUse { id: dev_id },
            (CtrlOp::AddDev, libc::EACCES) => Error::Limit,
            (CtrlOp::StartDev, libc::EEXIST) => Error::InvalidState { id: dev_id, problem: "is live already" },
            (_, libc::EPERM | libc::EACCES) => Error::Permission { what: op.name().into(), id, errno },
            (_, libc::ENOMEM) => Error::NoMemory { what: op.name().into(), id },
            (_, libc::EOPNOTSUPP) => Error::Unsupported { what: format!("control command {op}"), since: since(op) },
            _ => Error::Kernel { id, call: op.name(), source: std::io::Error::from_raw_os_error(errno) },
        }
    }
}

/// First release with a control command, for the hint; the kernel itself is asked first.
fn since(op: CtrlOp) -> &'static str {
    match op {
        CtrlOp::StartUserRecovery | CtrlOp::EndUserRecovery => "6.1",
        CtrlOp::GetDevInfo2 => "6.3",
        CtrlOp::GetFeatures => "6.5",
        CtrlOp::DelDevAsync => "6.9",
        CtrlOp::UpdateSize | CtrlOp::QuiesceDev => "6.16",
        CtrlOp::TryStopDev => "7.0",
        CtrlOp::RegBuf | CtrlOp::UnregBuf => "7.1",
        _ => "6.0",
    }
}

/// What the system says, without the number that Rust adds: it has a field of its own.
pub(crate) fn words(source: &std::io::Error) -> String {
    let text = source.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernels of the device tests cannot be brought to give these; docs/errors.md lists the others.
    #[test]
    fn answers_that_no_test_kernel_gives_are_told_too() {
        let limit = Error::from_answer(CtrlOp::AddDev, u32::MAX, libc::EACCES);
        assert_eq!((limit.code(), limit.errno(), limit.device_id()), ("ERR_UBLK_LIMIT", Some(-libc::EACCES), None));
        assert!(limit.hint().contains("ublks_max"));

        let other = Error::from_answer(CtrlOp::SetParams, 3, libc::EINVAL);
        assert_eq!((other.code(), other.errno(), other.device_id()), ("ERR_UBLK_KERNEL", Some(-libc::EINVAL), Some(3)));
        assert_eq!(other.syscall(), Some("SET_PARAMS"));
        assert!(other.to_string().starts_with("device 3: SET_PARAMS failed: Invalid argument"));

        let stuck = Error::KernelStuck { id: 3, op: CtrlOp::DelDev, limit: Duration::from_secs(30) };
        assert_eq!((stuck.code(), stuck.syscall()), ("ERR_UBLK_KERNEL_STUCK", Some("DEL_DEV")));
        assert!(stuck.to_string().starts_with("device 3: DEL_DEV gave no answer within 30000 ms"));
    }

    #[test]
    fn a_silent_server_is_killed_so_that_a_quiesced_device_is_kept() {
        let limit = Duration::from_secs(1);
        let hint = |op, pid| Error::ServerSilent { id: 3, pid, op, limit }.hint();
        let other = std::process::id() + 1;
        let quiesce = hint(CtrlOp::QuiesceDev, other);
        assert!(quiesce.contains(&format!("`kill -9 {other}`, then `ublk recover 3`")), "{quiesce}");
        let stop = hint(CtrlOp::StopDev, other);
        assert!(stop.starts_with(&format!("`kill -9 {other}`:")) && stop.contains("`ublk del 3`"), "{stop}");
        assert!(hint(CtrlOp::StopDev, std::process::id()).contains("do not kill -9"));
    }
}
