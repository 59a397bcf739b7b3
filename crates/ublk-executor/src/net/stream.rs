//! A connection: bytes in both directions.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types};
use rustix::net::SocketAddrAny;

use crate::io::IoBuffer;
use crate::io::operation::{Operation, start};
use crate::reactor::OpKind;

/// A connection: a [`super::TcpStream`] or a [`super::UnixStream`]. Clones are the same connection, so that one task can read while
/// another writes; it closes when the last clone and the last operation are done with it.
///
/// Operations take their buffer along and give it back with the result. Two reads at once, or two writes, take turns in no order that
/// could be relied on.
pub struct Stream<F> {
    socket: Arc<OwnedFd>,
    family: PhantomData<fn() -> F>,
}

/// The peer closed in the middle of a [`Stream::read_exact`]. It is the inner error of an [`io::ErrorKind::UnexpectedEof`]; a peer that
/// ends in between two messages is one of which nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer closed after {received} of {wanted} bytes")]
pub struct EndedEarly {
    /// Bytes that came, and are in the buffer.
    pub received: usize,
    /// Bytes that were to come.
    pub wanted: usize,
}

impl<F> Stream<F> {
    /// `socket` is connected.
    pub(super) fn new(socket: OwnedFd) -> Stream<F> {
        Stream { socket: Arc::new(socket), family: PhantomData }
    }

    /// Connects. Not tried again after a signal: the kernel goes on by itself, and says EALREADY.
    pub(super) async fn connect_to(socket: OwnedFd, address: SocketAddrAny) -> io::Result<Stream<F>> {
        let stream = Stream::new(socket);
        let address = Box::new(address);
        let entry = opcode::Connect::new(stream.fd(), address.as_ptr().cast(), address.addr_len()).build();
        // SAFETY: the entry points into the box, whose content does not move with it; the operation owns both box and socket.
        let operation = unsafe { start(entry, OpKind::Cancelable, (address, Arc::clone(&stream.socket))) };
        operation.await.0?;
        Ok(stream)
    }

    /// What has come, as much as the buffer takes: the number of bytes, and the buffer. Waits for the first byte. 0: the peer has closed
    /// its side, or the buffer is empty.
    ///
    /// Not cancel-safe: bytes that the kernel has put into the buffer of a dropped future are lost with it. Those that come later go to
    /// the next read.
    ///
    /// # Errors
    /// The kernel's: ECONNRESET among them.
    ///
    /// # Panics
    /// Outside of an executor, or when the executor of its first poll has ended.
    pub async fn read<B: IoBuffer>(&self, buffer: B) -> (io::Result<usize>, B) {
        self.transfer(buffer, 0, receive).await
    }

    /// Fills the whole buffer; short reads are resumed.
    ///
    /// Not cancel-safe: what a dropped future has read is lost.
    ///
    /// # Errors
    /// [`EndedEarly`] in an UnexpectedEof when the peer closes its side before; else the kernel's. What came is in the buffer.
    ///
    /// # Panics
    /// Outside of an executor, or when the executor of its first poll has ended.
    pub async fn read_exact<B: IoBuffer>(&self, mut buffer: B) -> (io::Result<()>, B) {
        let (mut received, wanted) = (0, buffer.bytes());
        while received < wanted {
            let (result, back) = self.transfer(buffer, received, receive).await;
            buffer = back;
            match result {
                Ok(0) => {
                    let ended = EndedEarly { received, wanted };
                    return (Err(io::Error::new(io::ErrorKind::UnexpectedEof, ended)), buffer);
                }
                Ok(bytes) => received += bytes,
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }

    /// Writes the whole buffer; short writes are resumed. Waits while the peer takes nothing.
    ///
    /// Not cancel-safe: of a dropped future's bytes any number may have been sent.
    ///
    /// # Errors
    /// The kernel's: EPIPE and ECONNRESET when the peer has closed. How much was sent is unknown then.
    ///
    /// # Panics
    /// Outside of an executor, or when the executor of its first poll has ended.
    pub async fn write_all<B: IoBuffer>(&self, buffer: B) -> (io::Result<()>, B) {
        self.write_from(buffer, 0).await
    }

    /// [`Stream::write_all`] of two buffers, the second right after the first and in the same packet where it fits: a header and its
    /// data.
    ///
    /// Not cancel-safe: of a dropped future's bytes any number may have been sent.
    ///
    /// # Errors
    /// As [`Stream::write_all`].
    ///
    /// # Panics
    /// As [`Stream::write_all`].
    pub async fn write_all_pair<A, B>(&self, mut first: A, mut second: B) -> (io::Result<()>, A, B)
    where
        A: IoBuffer,
        B: IoBuffer,
    {
        let mut sent = 0;
        while sent < first.bytes() {
            let message = Message::new([rest_of(&mut first, sent), rest_of(&mut second, 0)]);
            let entry = opcode::SendMsg::new(self.fd(), &raw const message.header).flags(NO_SIGPIPE as u32);
            // SAFETY: the entry points into the box `message`, which points to itself and into both buffers; neither moves with its owner,
            // and the operation owns all of them, and the socket.
            let operation: Operation<(A, B, Box<Message>, Arc<OwnedFd>)> =
                unsafe { start(entry.build(), OpKind::Cancelable, (first, second, message, Arc::clone(&self.socket))) };
            let (result, held) = operation.await;
            (first, second) = (held.0, held.1);
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), first, second),
                Ok(bytes) => sent += bytes as usize,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), first, second),
            }
        }
        let (result, second) = self.write_from(second, sent - first.bytes()).await;
        (result, first, second)
    }

    /// Closes one direction or both, for all clones: after that of writing the peer reads to the end of what was sent, then 0.
    /// Reads and writes under way end.
    ///
    /// # Errors
    /// The kernel's: ENOTCONN when the peer has reset the connection.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        Ok(rustix::net::shutdown(&self.socket, how)?)
    }

    async fn write_from<B: IoBuffer>(&self, mut buffer: B, mut sent: usize) -> (io::Result<()>, B) {
        while sent < buffer.bytes() {
            let (result, back) = self.transfer(buffer, sent, send).await;
            buffer = back;
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(bytes) => sent += bytes,
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }

    /// One operation on the buffer from `done` on: how many bytes it moved.
    async fn transfer<B: IoBuffer>(&self, mut buffer: B, done: usize, entry: MakeEntry) -> (io::Result<usize>, B) {
        loop {
            let rest = rest_of(&mut buffer, done);
            let entry = entry(self.fd(), rest);
            // SAFETY: the entry points into the buffer, whose bytes do not move with it; the operation owns both buffer and socket.
            let operation: Operation<(B, Arc<OwnedFd>)> =
                unsafe { start(entry, OpKind::Cancelable, (buffer, Arc::clone(&self.socket))) };
            let (result, (back, _)) = operation.await;
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => buffer = back,
                result => return (result.map(|bytes| bytes as usize), back),
            }
        }
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.socket.as_raw_fd())
    }
}

/// The bytes of a buffer from `done` on.
fn rest_of<B: IoBuffer>(buffer: &mut B, done: usize) -> libc::iovec {
    let bytes = buffer.bytes();
    assert!(done <= bytes, "{done} of {bytes} bytes were moved");
    // SAFETY: `done` is within the buffer, or its end.
    let rest = unsafe { buffer.start().add(done) };
    libc::iovec { iov_base: rest.cast(), iov_len: bytes - done }
}

/// Kernels that add it to every send of a ring by themselves are the newer ones.
const NO_SIGPIPE: i32 = libc::MSG_NOSIGNAL;

type MakeEntry = fn(types::Fd, libc::iovec) -> squeue::Entry;

fn receive(fd: types::Fd, into: libc::iovec) -> squeue::Entry {
    opcode::Recv::new(fd, into.iov_base.cast(), length_of(&into)).build()
}

fn send(fd: types::Fd, from: libc::iovec) -> squeue::Entry {
    opcode::Send::new(fd, from.iov_base.cast(), length_of(&from)).flags(NO_SIGPIPE).build()
}

/// The kernel takes no more than 2 GiB at once; longer buffers are moved in part.
fn length_of(bytes: &libc::iovec) -> u32 {
    bytes.iov_len.min(i32::MAX as usize) as u32
}

/// What `sendmsg` takes, for two buffers.
struct Message {
    header: libc::msghdr,
    parts: [libc::iovec; 2],
}

impl Message {
    fn new(parts: [libc::iovec; 2]) -> Box<Message> {
        // SAFETY: zeroes are a header without address, parts and control data.
        let header = unsafe { std::mem::zeroed() };
        let mut message = Box::new(Message { header, parts });
        message.header.msg_iov = message.parts.as_mut_ptr();
        message.header.msg_iovlen = message.parts.len() as _;
        message
    }
}

impl<F> Clone for Stream<F> {
    fn clone(&self) -> Stream<F> {
        Stream { socket: Arc::clone(&self.socket), family: PhantomData }
    }
}

impl<F> AsFd for Stream<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<F> fmt::Debug for Stream<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Stream({})", self.socket.as_raw_fd())
    }
}
