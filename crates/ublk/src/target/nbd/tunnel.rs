//! Carries a connection through TLS: the queue sends and receives on one end of a pair of sockets, a thread at the other end enciphers and
//! deciphers, and nothing but records goes over the network.
//!
//! Thread: one for each connection; it ends with it. It waits for both sockets and blocks on none, so each direction goes on whatever the
//! other does. Neither is read before what was read last has gone: that is the limit of its memory, and how a slow side is felt by the other.
//! Records are allocated here, by rustls: the queue's thread has no part in it.
//!
//! The kernel's own TLS would save the copies, but is a module that is not everywhere, is not for Unix sockets, and before Linux 6.14 ends with
//! the server's first new key: this is one way for all.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustls::ClientConnection;

use super::socket::Socket;
use super::tls::{Session, about};
use crate::error::words;

/// Bytes that are read at once: four records.
const CHUNK_BYTES: usize = 64 << 10;

/// A thread that carries. Who drops it hangs up the queue's socket first, or waits until the server does.
#[derive(Debug)]
pub(super) struct Tunnel {
    thread: Option<JoinHandle<()>>,
    end: Arc<OnceLock<String>>,
}

impl Tunnel {
    /// The queue's end of a session, and what carries it.
    ///
    /// # Errors
    /// The kernel's: no socket, no thread.
    pub(super) fn through(session: Session) -> io::Result<(Socket, Tunnel)> {
        let Session { conn: mut tls, sock: network } = session;
        let (queue, own) = Socket::pair()?;
        network.set_nonblocking()?;
        own.set_nonblocking()?;
        tls.set_buffer_limit(None); // CHUNK_BYTES are the limit
        let mut carrier =
            Carrier { tls, network, queue: own, deciphered: Vec::new(), delivered: 0, room: vec![0; CHUNK_BYTES] };
        let end = Arc::new(OnceLock::new());
        let of_thread = Arc::clone(&end);
        let thread = thread::Builder::new().name("ublk-nbd-tls".into()).spawn(move || {
            let why = carrier.carry();
            // Said before the queue can notice.
            let _ = of_thread.set(words(&why));
            drop(carrier);
        })?;
        Ok((queue, Tunnel { thread: Some(thread), end }))
    }

    /// Why it ended, when it did.
    pub(super) fn end(&self) -> Option<&str> {
        self.end.get().map(String::as_str)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Carrier {
    tls: ClientConnection,
    network: Socket,
    queue: Socket,
    /// From the server, for the queue.
    deciphered: Vec<u8>,
    /// Bytes of it that the queue's socket has taken.
    delivered: usize,
    room: Vec<u8>,
}

impl Carrier {
    /// Returns when one side has hung up.
    fn carry(&mut self) -> io::Error {
        loop {
            if let Err(error) = self.step() {
                // A last word, if there is room for it.
                self.tls.send_close_notify();
                let _ = self.tls.write_tls(&mut self.network);
                return error;
            }
        }
    }

    fn step(&mut self) -> io::Result<()> {
        let (has_requests, has_records) = self.wait()?;
        if has_requests {
            self.encipher()?;
        }
        if has_records {
            self.decipher()?;
        }
        while self.tls.wants_write() && moved(self.tls.write_tls(&mut self.network))?.is_some() {}
        self.deliver()
    }

    /// Waits for what can go on: whether there is something from the queue, and from the network.
    fn wait(&self) -> io::Result<(bool, bool)> {
        let is_delivered = self.deciphered.is_empty();
        let is_sent = !self.tls.wants_write();
        let either = |read, write| {
            let read = if read { PollFlags::IN } else { PollFlags::empty() };
            read | if write { PollFlags::OUT } else { PollFlags::empty() }
        };
        let network = either(is_delivered, !is_sent);
        let mut sockets =
            [PollFd::new(&self.queue, either(is_sent, !is_delivered)), PollFd::new(&self.network, network)];
        // One that is asked nothing would tell of its end without end.
        let asked = if network.is_empty() { 1 } else { 2 };
        match poll(&mut sockets[..asked], None) {
            Err(rustix::io::Errno::INTR) => return Ok((false, false)),
            polled => polled?,
        };
        let [queue, network] = sockets.map(|socket| socket.revents());
        if queue.intersects(PollFlags::HUP | PollFlags::ERR) {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "it was not needed any more"));
        }
        let has_records = network.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        Ok((is_sent && queue.contains(PollFlags::IN), is_delivered && has_records))
    }

    fn encipher(&mut self) -> io::Result<()> {
        match moved(self.queue.read(&mut self.room))? {
            Some(bytes) => self.tls.writer().write_all(&self.room[..bytes]),
            None => Ok(()),
        }
    }

    fn decipher(&mut self) -> io::Result<()> {
        let Some(bytes) = moved(self.network.read(&mut self.room))? else { return Ok(()) };
        let mut records = &self.room[..bytes];
        while !records.is_empty() {
            self.tls.read_tls(&mut records)?;
            let state = self.tls.process_new_packets().map_err(|error| io::Error::other(about(&error).to_string()))?;
            let begin = self.deciphered.len();
            self.deciphered.resize(begin + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut self.deciphered[begin..])?;
            if state.peer_has_closed() {
                return Err(hung_up());
            }
        }
        Ok(())
    }

    fn deliver(&mut self) -> io::Result<()> {
        while self.delivered < self.deciphered.len() {
            let Some(bytes) = moved(self.queue.write(&self.deciphered[self.delivered..]))? else { return Ok(()) };
            self.delivered += bytes;
        }
        self.deciphered.clear();
        self.delivered = 0;
        Ok(())
    }
}

/// Bytes that a socket has moved; None: none now.
fn moved(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(0) => Err(hung_up()),
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

fn hung_up() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the server hung up")
}
