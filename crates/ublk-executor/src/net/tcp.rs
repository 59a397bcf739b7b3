//! TCP.

use std::io;
use std::net::SocketAddr;

use rustix::net::{AddressFamily, SocketAddrAny, SocketFlags, SocketType, sockopt};

use super::{BACKLOG, Listener, Stream, told};

/// The family of TCP sockets.
#[derive(Debug)]
pub enum Tcp {}

/// A TCP socket that accepts connections.
pub type TcpListener = Listener<Tcp>;

/// A TCP connection.
pub type TcpStream = Stream<Tcp>;

/// How a [`TcpListener`] listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections that wait to be accepted; default 1024. The kernel takes no more than `net.core.somaxconn`.
    pub backlog: u32,
    /// Others of the same user may listen on the same port if they say so too (SO_REUSEPORT): one listener for each shard, between which
    /// the kernel spreads the connections. Default: no.
    pub shares_port: bool,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions { backlog: BACKLOG, shares_port: false }
    }
}

impl Listener<Tcp> {
    /// Listens on an address; port 0 stands for any that is free, see [`TcpListener::local_addr`]. Needs no executor. A port whose last
    /// connections are still closing (TIME_WAIT) is free (SO_REUSEADDR).
    ///
    /// # Errors
    /// The kernel's, naming the address: AddrInUse, AddrNotAvailable, PermissionDenied among its kinds.
    pub fn bind(address: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
        listen(address, options).map(Listener::new).map_err(|error| told(format_args!("listen on {address}"), error))
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        address_of(rustix::net::getsockname(self)?)
    }
}

fn listen(address: SocketAddr, options: ListenOptions) -> rustix::io::Result<rustix::fd::OwnedFd> {
    let socket = socket(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, options.shares_port)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}

impl Stream<Tcp> {
    /// Connects. Dropping the future takes it back, and closes the socket.
    ///
    /// # Errors
    /// The kernel's, naming the address: ConnectionRefused, TimedOut (after two minutes, unless dropped before) among its kinds.
    ///
    /// # Panics
    /// Outside of an executor, or when the executor of its first poll has ended.
    pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
        let refused = |error: io::Error| told(format_args!("connect to {address}"), error);
        let socket = socket(address).map_err(|error| refused(error.into()))?;
        Stream::connect_to(socket, address.into()).await.map_err(refused)
    }

    /// Address of this end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        address_of(rustix::net::getsockname(self)?)
    }

    /// Address of the other end.
    ///
    /// # Errors
    /// The kernel's: ENOTCONN when the connection was reset.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        address_of(rustix::net::getpeername(self)?.ok_or(io::ErrorKind::NotConnected)?)
    }

    /// Small writes are sent at once (TCP_NODELAY), not held back until the peer has acknowledged those before.
    ///
    /// # Errors
    /// The kernel's.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(sockopt::tcp_nodelay(self)?)
    }

    /// Sets [`TcpStream::nodelay`]; a new connection's is off. Protocols of requests and replies want it on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_nodelay(&self, is_on: bool) -> io::Result<()> {
        Ok(sockopt::set_tcp_nodelay(self, is_on)?)
    }
}

fn socket(address: SocketAddr) -> rustix::io::Result<rustix::fd::OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

fn address_of(address: SocketAddrAny) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(address)?)
}
