//! Unix stream sockets.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{BACKLOG, Listener, Stream, told};

/// The family of Unix stream sockets.
#[derive(Debug)]
pub enum Unix {}

/// A Unix socket that accepts connections.
pub type UnixListener = Listener<Unix>;

/// A connection between two Unix sockets.
pub type UnixStream = Stream<Unix>;

/// What fits in `sun_path` with the zero at its end.
const LONGEST_PATH_BYTES: usize = 107;

impl Listener<Unix> {
    /// Makes a socket file and listens on it. Needs no executor. The file's mode is 0600 from the moment it is there, less what the umask
    /// takes away: only the user, and root, can connect. It stays when the listener goes: remove it then.
    ///
    /// # Errors
    /// AddrInUse when something is at that path, also a socket file that a server left: remove it if no server runs. InvalidInput when
    /// the path is empty, or longer than 107 bytes. Else the kernel's. All name the path.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<UnixListener> {
        let path = path.as_ref();
        let address = address_of(path)?;
        listen(&address).map(Listener::new).map_err(|error| match error {
            rustix::io::Errno::ADDRINUSE => io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("listen on {}: it exists; remove it if no server uses it", path.display()),
            ),
            error => told(format_args!("listen on {}", path.display()), error),
        })
    }
}

fn listen(address: &SocketAddrUnix) -> rustix::io::Result<OwnedFd> {
    let socket = socket()?;
    // The file that `bind` makes takes its mode from the socket (unix_bind_bsd in net/unix/af_unix.c): there is no moment at which it is
    // open to others, and no umask is changed, which all threads would share.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, address)?;
    rustix::net::listen(&socket, BACKLOG as i32)?;
    Ok(socket)
}

impl Stream<Unix> {
    /// Connects to the server that listens at `path`; waits while too many others do. Dropping the future takes it back.
    ///
    /// # Errors
    /// The kernel's, naming the path: NotFound, PermissionDenied, ConnectionRefused (no server listens there any more) among its kinds.
    /// InvalidInput when the path is empty, or longer than 107 bytes.
    ///
    /// # Panics
    /// Outside of an executor, or when the executor of its first poll has ended.
    pub async fn connect(path: impl AsRef<Path>) -> io::Result<UnixStream> {
        let path = path.as_ref();
        let address = address_of(path)?;
        let refused = |error: io::Error| told(format_args!("connect to {}", path.display()), error);
        let socket = socket().map_err(|error| refused(error.into()))?;
        Stream::connect_to(socket, address.into()).await.map_err(refused)
    }

    /// Two ends of a connection without a path. Needs no executor.
    ///
    /// # Errors
    /// The kernel's: EMFILE or ENFILE.
    pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        Ok((Stream::new(one), Stream::new(other)))
    }
}

fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

fn address_of(path: &Path) -> io::Result<SocketAddrUnix> {
    let bytes = path.as_os_str().len();
    // An empty path would be a name of the kernel's choice.
    if bytes == 0 || bytes > LONGEST_PATH_BYTES {
        let rule = format!("socket path {path:?} has {bytes} bytes: it must have 1 to {LONGEST_PATH_BYTES}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, rule));
    }
    SocketAddrUnix::new(path).map_err(|error| told(format_args!("socket path {path:?}"), error))
}
