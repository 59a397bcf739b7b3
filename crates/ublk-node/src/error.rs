//! What a failed call answers: the mirror of `NativeError` in src/native.ts.

use napi_derive::napi;

/// An expected failure, as TypeScript gets it.
#[napi(object, use_nullable = true, object_from_js = false)]
#[derive(Debug, Clone)]
pub struct NativeError {
    /// Stable code, `ERR_UBLK_…`.
    pub code: String,
    /// Sentence.
    pub message: String,
    /// What to do next; may be empty.
    pub hint: String,
    /// Negative errno.
    pub errno: Option<i32>,
    /// Kernel command or system call.
    pub syscall: Option<String>,
    /// N of /dev/ublkbN.
    pub device_id: Option<u32>,
}

impl NativeError {
    /// A queue's JavaScript side is gone or broken.
    pub(crate) fn backend(device_id: u32, message: String) -> NativeError {
        NativeError::own("ERR_UBLK_BACKEND", device_id, message, "")
    }

    /// The call does not fit the state of the device.
    pub(crate) fn invalid_state(device_id: u32, problem: &str) -> NativeError {
        NativeError::own(
            "ERR_UBLK_INVALID_STATE",
            device_id,
            format!("device {device_id} {problem}"),
            "Check `state` before the call.",
        )
    }

    /// A queue's owner did not let go of it in its time.
    pub(crate) fn queues_remain(device_id: u32, waited_ms: u128) -> NativeError {
        let message =
            format!("device {device_id}: a queue did not end within {waited_ms} ms of STOP_DEV or QUIESCE_DEV");
        let hint = "A request is open: of a worker that is blocked in a synchronous handler (terminate it), or of a slow target. Then call again.";
        NativeError::own("ERR_UBLK_TIMEOUT", device_id, message, hint)
    }

    /// A panic of native code, caught: a bug of ours.
    pub(crate) fn panicked(device_id: Option<u32>, message: &str) -> NativeError {
        NativeError {
            code: "ERR_UBLK_KERNEL".into(),
            message: format!("internal error: {message}"),
            hint: "This is a bug of ublk: please report it.".into(),
            errno: None,
            syscall: None,
            device_id,
        }
    }

    /// No thread for an operation.
    pub(crate) fn no_thread(source: &std::io::Error) -> NativeError {
        NativeError {
            code: "ERR_UBLK_NO_MEMORY".into(),
            message: format!("no thread for the operation: {source}"),
            hint: "Raise the limit on threads (`ulimit -u`, or the pids limit of the container).".into(),
            errno: source.raw_os_error().map(|errno| -errno),
            syscall: Some("clone".into()),
            device_id: None,
        }
    }

    fn own(code: &str, device_id: u32, message: String, hint: &str) -> NativeError {
        NativeError {
            code: code.into(),
            message,
            hint: hint.into(),
            errno: None,
            syscall: None,
            device_id: Some(device_id),
        }
    }
}

impl From<ublk::Error> for NativeError {
    fn from(error: ublk::Error) -> NativeError {
        NativeError {
            code: error.code().into(),
            message: error.to_string(),
            hint: error.hint(),
            errno: error.errno(),
            syscall: error.syscall().map(Into::into),
            device_id: error.device_id(),
        }
    }
}

/// Text of a caught panic.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}
