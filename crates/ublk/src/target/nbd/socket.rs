//! A stream socket of either family, until a queue has it: it blocks, with a limit or none, or never.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::ioctl_fionbio;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown, socketpair,
};

#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// Two that are connected to each other.
    pub(super) fn pair() -> io::Result<(Socket, Socket)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        Ok((Socket(one), Socket(other)))
    }

    /// For each read and write; afterwards they fail with ETIMEDOUT.
    pub(super) fn set_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        set_socket_timeout(&self.0, Timeout::Recv, limit)?;
        Ok(set_socket_timeout(&self.0, Timeout::Send, limit)?)
    }

    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        Ok(ioctl_fionbio(&self.0, true)?)
    }

    /// Ends the connection for everybody who has it: operations under way come back.
    pub(super) fn hang_up(&self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

impl<T: Into<OwnedFd>> From<T> for Socket {
    fn from(stream: T) -> Socket {
        Socket(stream.into())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&self.0, buffer, RecvFlags::empty())?.0)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
