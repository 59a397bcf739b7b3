//! Connections to an NBD server: made before the device is, and made again when one is lost.
//!
//! Threads: whoever opens the target, each queue's when it begins, and a thread of its own for each connection that is lost. None of this
//! is on a request's way.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_user_timeout};

use super::protocol::{Export, choose, greet, start_tls};
use super::socket::Socket;
use super::tls::{first_answer, handshake};
use super::tunnel::Tunnel;
use super::{Failure, NbdAddress, NbdOptions, lock};

/// For connecting, and for each step of the negotiation.
const STEP_LIMIT: Duration = Duration::from_secs(5);

/// After this long without an answer to what was sent, the network is taken for lost.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection that is ready for requests.
#[derive(Debug)]
pub(super) struct Connection {
    /// Shared with what watches it.
    pub(super) socket: Arc<Socket>,
    pub(super) export: Export,
    /// What carries it through TLS.
    pub(super) tunnel: Option<Tunnel>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.socket.hang_up(); // the tunnel's thread ends, and is waited for next
    }
}

/// Connects and negotiates.
pub(super) fn connect(options: &NbdOptions) -> Result<Connection, Failure> {
    let client = options.tls.as_ref().map(|tls| tls.client(&options.address)).transpose()?;
    let mut socket = open(&options.address)?;
    socket.set_limit(Some(STEP_LIMIT))?;
    greet(&mut socket)?;
    let Some(client) = client else {
        let export = choose(&mut socket, &options.export)?;
        socket.set_limit(None)?;
        return Ok(Connection { socket: Arc::new(socket), export, tunnel: None });
    };
    start_tls(&mut socket)?;
    let mut session = handshake(client, socket)?;
    let export = first_answer(choose(&mut session, &options.export))?;
    let (socket, tunnel) = Tunnel::through(session)?;
    Ok(Connection { socket: Arc::new(socket), export, tunnel: Some(tunnel) })
}

/// Connects anew to an export that a device was made with. Another size or fewer abilities are refused: the device has promised them.
pub(super) fn connect_again(options: &NbdOptions, export: &Export) -> Result<Connection, Failure> {
    let connection = connect(options)?;
    if is_as_good(&connection.export, export) {
        return Ok(connection);
    }
    Err(Failure::Refused("the export has another size, or can do less".into()))
}

fn open(address: &NbdAddress) -> io::Result<Socket> {
    match address {
        NbdAddress::Tcp { host, port } => {
            let stream = connect_tcp(host, *port)?;
            stream.set_nodelay(true)?;
            set_socket_keepalive(&stream, true)?;
            set_tcp_keepidle(&stream, SILENCE_LIMIT)?;
            set_tcp_user_timeout(&stream, SILENCE_LIMIT.as_millis() as u32)?;
            Ok(stream.into())
        }
        NbdAddress::Unix { path } => Ok(UnixStream::connect(path)?.into()),
    }
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
    /// Why the last attempt made none.
    failure: Mutex<Option<String>>,
}

impl Reconnection {
    /// Tries until there is one, with growing pauses.
    pub(super) fn begin(options: Arc<NbdOptions>, export: Export) -> io::Result<Reconnection> {
        let slot = Arc::new(Slot::default());
        let of_thread = Arc::clone(&slot);
        thread::Builder::new().name("ublk-nbd".into()).spawn(move || {
            let mut pause = FIRST_PAUSE;
            while !of_thread.is_unwanted.load(SeqCst) {
                let failure = match connect_again(&options, &export) {
                    Ok(connection) => {
                        *lock(&of_thread.connection) = Some(connection);
                        of_thread.is_ready.store(true, SeqCst);
                        return;
                    }
                    Err(failure) => failure.to_string(),
                };
                *lock(&of_thread.failure) = Some(failure);
                thread::sleep(pause);
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
        lock(&self.slot.connection).take()
    }

    /// Why the last attempt has failed, once one has.
    pub(super) fn failure(&self) -> Option<String> {
        lock(&self.slot.failure).clone()
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
