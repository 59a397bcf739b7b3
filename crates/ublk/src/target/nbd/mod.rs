//! `nbd`: an export of an NBD server.
//!
//! Each queue thread has a connection of its own, where the server allows several (CAN_MULTI_CONN). Many requests are on their way over
//! each at a time (queue.rs). A connection that is lost is made again, and what was not answered is asked again (connect.rs): NBD's requests
//! may be repeated. A server that does not answer in its time is left for a new connection, too (watch.rs). With TLS a thread stands between
//! the queue's socket and the network (tunnel.rs).

mod connect;
mod protocol;
mod queue;
mod socket;
mod tls;
mod tunnel;
#[cfg(test)]
mod tunnel_tests;
mod watch;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use super::{Geometry, QueueTarget, Report, Target};
use crate::error::words;
use crate::{BufferMode, CharDevice, Error};
use connect::{Connection, connect, connect_again};
use protocol::Export;
use queue::NbdQueue;
pub use tls::NbdTls;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NbdAddress {
    /// TCP.
    Tcp {
        /// Name or address.
        host: String,
        /// Usually 10809.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
    },
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NbdAddress::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            NbdAddress::Unix { path } => write!(formatter, "{}", path.display()),
        }
    }
}

/// Which export to use, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdOptions {
    /// Server.
    pub address: NbdAddress,
    /// Name of the export; the empty one is the server's default.
    pub export: String,
    /// Send no writes.
    pub read_only: bool,
    /// Bytes to serve; None takes all that the export has.
    pub size_bytes: Option<u64>,
    /// Logical block size of the device, at least the server's smallest; None takes that.
    pub block_bytes: Option<u32>,
    /// How long requests wait for a lost connection before they fail with EIO.
    pub patience: Duration,
    /// How long the server may take for an answer before its connection counts as lost; None waits without end. Requests are then answered, or
    /// fail when they have waited for `patience` since they first lost a connection.
    pub request_timeout: Option<Duration>,
    /// How long a request may take in all before it fails with EIO; None where nobody counts.
    pub deadline: Option<Duration>,
    /// Speak TLS, and with nobody who does not; None speaks it with nobody.
    pub tls: Option<NbdTls>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{}", words(.0))]
    Io(io::Error),
    #[error("{0}")]
    Refused(String),
    /// One side wants TLS and the other does not, or not such.
    #[error("{problem}")]
    Tls { problem: String, hint: &'static str },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return tls::about(error);
        }
        match error.kind() {
            // A time-out shows as EAGAIN, which says nothing to anybody.
            io::ErrorKind::WouldBlock => Failure::Io(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
            io::ErrorKind::UnexpectedEof => Failure::Io(io::Error::new(error.kind(), "it hung up")),
            _ => Failure::Io(error),
        }
    }
}

/// Connects to an export.
///
/// # Errors
/// [`Error::Nbd`] naming the server, and what it refused or what failed; [`Error::NbdTls`] when it is not known for who it should be, or one
/// of the two wants TLS and the other does not.
pub fn nbd(options: NbdOptions) -> Result<Arc<dyn Target>, Error> {
    let connection = connect(&options).map_err(|failure| failed(&options, failure))?;
    let geometry = geometry(&connection.export, &options)?;
    let shared = Shared {
        options: Arc::new(options),
        export: connection.export,
        report: Mutex::new(None),
        queues: AtomicU32::new(0),
    };
    Ok(Arc::new(Nbd { shared: Arc::new(shared), spare: Mutex::new(Some(connection)), geometry }))
}

fn geometry(export: &Export, options: &NbdOptions) -> Result<Geometry, Error> {
    let least = export.min_block_bytes.max(512);
    let block_bytes = options.block_bytes.unwrap_or(least);
    if !least.is_power_of_two() || least > 4096 || block_bytes < least {
        return Err(rule(
            options,
            &format!("its blocks have {least} bytes; a device's have 512 to 4096, and no fewer than those"),
        ));
    }
    let wanted = options.size_bytes.unwrap_or(export.size_bytes);
    let size_bytes = wanted - wanted % u64::from(block_bytes);
    if wanted > export.size_bytes || size_bytes == 0 {
        return Err(rule(
            options,
            &format!("the export has {} bytes, too few for a device of {wanted}", export.size_bytes),
        ));
    }
    Ok(Geometry {
        size_bytes,
        logical_block_bytes: block_bytes,
        physical_block_bytes: block_bytes.max(4096),
        volatile_cache: export.has(Export::FLUSH),
        fua: export.has(Export::FLUSH), // by a flush where the server has none
        discard: export.has(Export::TRIM),
        write_zeroes: export.has(Export::WRITE_ZEROES),
        rotational: export.has(Export::ROTATIONAL),
        read_only: options.read_only || export.has(Export::READ_ONLY),
        memory_align_bytes: 1,
    })
}

fn failed(options: &NbdOptions, failure: Failure) -> Error {
    let server = options.address.to_string();
    match failure {
        Failure::Tls { problem, hint } => Error::NbdTls { server, problem, hint },
        Failure::Io(source) => Error::Nbd { server, problem: words(&source), errno: source.raw_os_error() },
        Failure::Refused(problem) => Error::Nbd { server, problem, errno: None },
    }
}

fn rule(options: &NbdOptions, problem: &str) -> Error {
    Error::Nbd { server: options.address.to_string(), problem: problem.into(), errno: None }
}

/// What the queues of a target share.
struct Shared {
    options: Arc<NbdOptions>,
    /// As it was first: later connections must be as good.
    export: Export,
    report: Mutex<Option<Report>>,
    /// Queues that have a connection.
    queues: AtomicU32,
}

impl Shared {
    fn tell(&self, message: String) {
        if let Some(report) = &*lock(&self.report) {
            report(message);
        }
    }
}

struct Nbd {
    shared: Arc<Shared>,
    /// The connection of the first queue.
    spare: Mutex<Option<Connection>>,
    geometry: Geometry,
}

impl Nbd {
    fn connection(&self) -> Result<Connection, Error> {
        let Shared { options, export, .. } = &*self.shared;
        let spare = lock(&self.spare).take();
        spare.map_or_else(|| connect_again(options, export).map_err(|failure| failed(options, failure)), Ok)
    }
}

impl Target for Nbd {
    fn kind(&self) -> &'static str {
        "nbd"
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// A socket takes no fixed buffers: data is copied.
    fn buffers(&self) -> Vec<BufferMode> {
        Vec::new()
    }

    fn report_to(&self, report: Report) {
        *lock(&self.shared.report) = Some(report);
    }

    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        let Shared { options, export, queues, .. } = &*self.shared;
        let longest = export.max_payload_bytes;
        if device.max_io_bytes() > longest {
            return Err(rule(
                options,
                &format!(
                    "it takes requests of up to {longest} bytes, fewer than the device's {}",
                    device.max_io_bytes()
                ),
            ));
        }
        if queues.fetch_add(1, SeqCst) > 0 && !export.has(Export::MULTI_CONN) {
            queues.fetch_sub(1, SeqCst);
            return Err(rule(options, "it allows one connection, so one queue and one thread (no CAN_MULTI_CONN)"));
        }
        let made = self.connection().and_then(|connection| NbdQueue::new(&self.shared, device, tags, connection));
        made.map(|queue| Box::new(queue) as Box<dyn QueueTarget>).inspect_err(|_| {
            queues.fetch_sub(1, SeqCst);
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
