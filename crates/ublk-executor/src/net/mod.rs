//! TCP and Unix stream sockets: listeners and connections.
//!
//! Both families are the same two types: a [`Listener`] accepts [`Stream`]s. They are bound to no executor: whichever runs the task does
//! the operation, so that a listener or a connection may be handed to another shard.
//!
//! An operation owns its buffers and the socket until the kernel is done with them, as everywhere in this crate. Writing to a connection
//! that the peer has closed is an error, and never the signal SIGPIPE.

mod listener;
mod stream;
mod tcp;
mod unix;

use std::fmt;
use std::io;

pub use listener::Listener;
pub use stream::{EndedEarly, Stream};
pub use tcp::{ListenOptions, Tcp, TcpListener, TcpStream};
pub use unix::{Unix, UnixListener, UnixStream};

/// Connections that wait to be accepted, unless told otherwise. The kernel takes no more than `net.core.somaxconn` (4096 by default).
const BACKLOG: u32 = 1024;

/// The kernel's error with what was wanted; of the same kind.
fn told(wanted: impl fmt::Display, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{wanted}: {error}"))
}
