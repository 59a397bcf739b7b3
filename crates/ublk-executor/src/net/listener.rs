//! What accepts connections.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use io_uring::{opcode, types};

use super::stream::Stream;
use crate::io::operation::start_opening;
use crate::reactor::OpKind;

/// A socket that accepts connections: a [`super::TcpListener`] or a [`super::UnixListener`]. Closes when it and its last operation are done.
pub struct Listener<F> {
    socket: Arc<OwnedFd>,
    family: PhantomData<fn() -> F>,
}

impl<F> Listener<F> {
    /// `socket` listens already.
    pub(super) fn new(socket: OwnedFd) -> Listener<F> {
        Listener { socket: Arc::new(socket), family: PhantomData }
    }

    /// The next connection; waits for it. One whose peer went away before it was accepted is passed over.
    ///
    /// Dropping the future is safe, and takes the accept back. A connection that the kernel had handed out by then is closed: to lose
    /// none, let a task accept in a loop, and drop it at the end alone.
    ///
    /// # Errors
    /// The kernel's. EMFILE and ENFILE (no descriptor left) pass when connections end: wait a moment, and go on.
    ///
    /// # Panics
    /// Outside of an executor, or when the executor of its first poll has ended.
    pub async fn accept(&self) -> io::Result<Stream<F>> {
        loop {
            let fd = types::Fd(self.socket.as_raw_fd());
            let entry = opcode::Accept::new(fd, ptr::null_mut(), ptr::null_mut()).flags(libc::SOCK_CLOEXEC).build();
            // SAFETY: the entry points to no memory; the operation owns the socket; an accept makes a descriptor.
            let operation = unsafe { start_opening(entry, OpKind::Cancelable, Arc::clone(&self.socket)) };
            match operation.await.0 {
                Ok(socket) => return Ok(Stream::new(socket)),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECONNABORTED)) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<F> AsFd for Listener<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<F> fmt::Debug for Listener<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Listener({})", self.socket.as_raw_fd())
    }
}
