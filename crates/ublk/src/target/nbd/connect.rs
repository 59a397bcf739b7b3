//! Connections to an NBD server: made before the device is, and made again when one is lost.
//!
//! Threads: whoever opens the target, each queue's when it begins, and a thread of its own for each connection that is lost. None of this
//! is on a request's way.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_user_timeout};

use super::protocol::{Export, negotiate};
use super::{NbdAddress, NbdOptions};

/// For connecting, and for each step of the negotiation.
const STEP_LIMIT: Duration = Duration::from_secs(5);

/// After this long without an answer to what was sent, the network is taken for lost.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection that is ready for requests.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) export: Export,
}

/// Connects and negotiates.
pub(super) fn connect(options: &NbdOptions) -> io::Result<Connection> {
    match &options.address {
        NbdAddress::Tcp { host, port } => {
            let mut stream = connect_tcp(host, *port)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(STEP_LIMIT))?;
            stream.set_write_timeout(Some(STEP_LIMIT))?;
            let export = named(&mut stream, &options.export)?;
            stream.set_read_timeout(None)?;
            stream.set_write_timeout(None)?;
            set_socket_keepalive(&stream, true)?;
            set_tcp_keepidle(&stream, SILENCE_LIMIT)?;
            set_tcp_user_timeout(&stream, SILENCE_LIMIT.as_millis() as u32)?;
            Ok(Connection { socket: stream.into(), export })
        }
        NbdAddress::Unix { path } => {
            let mut stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(STEP_LIMIT))?;
            stream.set_write_timeout(Some(STEP_LIMIT))?;
            let export = named(&mut stream, &options.export)?;
            stream.set_read_timeout(None)?;
            stream.set_write_timeout(None)?;
            Ok(Connection { socket: stream.into(), export })
        }
    }
}

/// A time-out shows as EAGAIN, which says nothing to anybody.
fn named(stream: &mut (impl Read + Write), export: &str) -> io::Result<Export> {
    negotiate(stream, export).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::from_raw_os_error(libc::ETIMEDOUT),
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it hung up"),
        _ => error,
    })
}

fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, STEP_LIMIT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A new connection in the making. Dropping it gives up.
pub(super) struct Reconnection {
    slot: Arc<Slot>,
}

#[derive(Default)]
struct Slot {
    is_ready: AtomicBool,
    is_unwanted: AtomicBool,
    connection: Mutex<Option<Connection>>,
}

impl Reconnection {
    /// Tries until there is one, with growing pauses. Another size or fewer abilities are no connection: the device has promised them.
    pub(super) fn begin(options: Arc<NbdOptions>, export: Export) -> io::Result<Reconnection> {
        let slot = Arc::new(Slot::default());
        let of_thread = Arc::clone(&slot);
        thread::Builder::new().name("ublk-nbd".into()).spawn(move || {
            let mut pause = FIRST_PAUSE;
            while !of_thread.is_unwanted.load(SeqCst) {
                match connect(&options) {
                    Ok(connection) if is_as_good(&connection.export, &export) => {
                        *of_thread.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
                        of_thread.is_ready.store(true, SeqCst);
                        return;
                    }
                    _ => thread::sleep(pause),
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        })?;
        Ok(Reconnection { slot })
    }

    /// The connection, when it is there. Never waits.
    pub(super) fn take(&self) -> Option<Connection> {
        if !self.slot.is_ready.load(SeqCst) {
            return None;
        }
        self.slot.connection.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Reconnection {
    fn drop(&mut self) {
        self.slot.is_unwanted.store(true, SeqCst);
    }
}

fn is_as_good(new: &Export, old: &Export) -> bool {
    let can_do_as_much =
        old.flags & !new.flags & !Export::READ_ONLY == 0 && (old.has(Export::READ_ONLY) || !new.has(Export::READ_ONLY));
    new.size_bytes == old.size_bytes
        && can_do_as_much
        && new.max_payload_bytes >= old.max_payload_bytes
        && new.min_block_bytes <= old.min_block_bytes
}
