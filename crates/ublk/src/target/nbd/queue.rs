//! The requests of one thread over one connection.
//!
//! One send and one receive are on the ring at a time, or the bytes of several requests would mix. A send is charged to the request that it is
//! of. Replies come in any order, so the receive of a header is charged to any request that waits, and that of data to its own. So when nobody
//! waits nothing is on the ring, and a queue that is idle can end.
//!
//! A request that has its reply through the receive of another one is woken: in this way every layer above sees the end of every request.
//!
//! A server without FUA gets a flush behind a write that must be durable, as the same request: the device takes FUA all the same
//! (`geometry`).
//!
//! A lost connection: when both operations have come back, a thread makes a new one (connect.rs), and every request that waits is sent
//! again from its beginning. One of them looks from time to time whether it is there, and when patience is at its end all fail.
//!
//! A server that does not answer in its time loses its connection (watch.rs). It may let itself be connected to again all the same: with such a
//! limit a request's own patience counts from the first connection that it lost. And no request outlives its deadline.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use ublk_executor::Mapping;
use ublk_uapi::IoFlags;

use super::Shared;
use super::connect::{Connection, Reconnection};
use super::protocol::{Export, REPLY_BYTES, REQUEST_BYTES, decode, encode};
use super::tunnel::Tunnel;
use super::watch::{Limits, Watch};
use crate::error::words;
use crate::target::{BufferAddress, Io, Op, Progress, QueueTarget, Request, SocketIo, WOKEN};
use crate::{CharDevice, Error};

/// Names of the operations on the ring.
const SEND: u16 = 0;
const RECEIVE_HEADER: u16 = 1;
const RECEIVE_DATA: u16 = 2;
const LOOK: u16 = 3;

/// How often to look for a new connection.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Bytes of data that go through the socket in one operation, where the server's time is limited: its end shows that the connection is alive.
/// As many as requests have unless a device is told otherwise (`max_io_bytes`), so that only longer ones take more operations.
const PIECE_BYTES: u32 = 512 << 10;

/// Place of a request's header in the headers.
const HEADER_SPACE: usize = 32;

enum Link {
    Up(Connection),
    /// Lost, and an operation on it has not come back.
    Ending {
        _socket: Connection,
    },
    /// Being made again.
    Down {
        reconnection: Option<Reconnection>,
        since: Instant,
        is_given_up: bool,
    },
}

/// What of a request is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Whole,
    /// The flush is to be asked when the write is sent: its reply is there, and the end of its send is not.
    Written,
    /// The flush behind it.
    Flush,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    request: Request,
    /// Bytes of header and data that the socket has taken.
    sent: u32,
    /// Bytes of a read's data.
    received: u32,
    /// Its place among those that wait for a reply.
    place: u32,
    /// Operations on the ring that are charged to it.
    open: u8,
    stage: Stage,
    /// When it first lost a connection, where the server's time is limited.
    lost: Option<Instant>,
    /// Its result, when it is known.
    answer: Option<i32>,
}

impl Slot {
    fn new(request: Request, place: u32) -> Slot {
        Slot { request, sent: 0, received: 0, place, open: 0, stage: Stage::Whole, lost: None, answer: None }
    }

    /// Bytes that the request is on its way.
    fn length(&self) -> u32 {
        let has_data = self.request.op == Op::Write && self.stage != Stage::Flush;
        REQUEST_BYTES as u32 + if has_data { self.request.len_bytes } else { 0 }
    }
}

pub(super) struct NbdQueue {
    shared: Arc<Shared>,
    link: Link,
    slots: Vec<Slot>,
    /// Requests that have no reply, sent or not.
    waiting: Vec<u16>,
    to_send: VecDeque<u16>,
    is_sending: bool,
    is_receiving: bool,
    /// Of the header that is being received.
    header_received: u32,
    /// The read whose data comes next.
    reading: Option<u16>,
    /// The watch's looks when its header came.
    reading_since: u64,
    is_looking: bool,
    watch: Watch,
    /// Most bytes of data in one operation.
    piece_bytes: u32,
    /// One header per tag, and the reply's behind them.
    headers: Mapping,
}

impl NbdQueue {
    pub(super) fn new(
        shared: &Arc<Shared>,
        device: &Arc<CharDevice>,
        tags: u32,
        connection: Connection,
    ) -> Result<NbdQueue, Error> {
        let tags = tags as usize;
        let headers = Mapping::new((tags + 1) * HEADER_SPACE)
            .map_err(|_| Error::NoMemory { what: format!("{tags} headers"), id: Some(device.id()) })?;
        let limits = Limits { answer: shared.options.request_timeout, whole: shared.options.deadline };
        let watch = Watch::begin(tags, limits).map_err(|_| Error::NoMemory {
            what: "a thread that watches the connection".into(),
            id: Some(device.id()),
        })?;
        watch.follow(&connection.socket);
        Ok(NbdQueue {
            shared: Arc::clone(shared),
            link: Link::Up(connection),
            slots: vec![Slot::new(Request::default(), 0); tags],
            waiting: Vec::with_capacity(tags),
            to_send: VecDeque::with_capacity(tags),
            is_sending: false,
            is_receiving: false,
            header_received: 0,
            reading: None,
            reading_since: 0,
            is_looking: false,
            watch,
            piece_bytes: limits.answer.map_or(u32::MAX, |_| PIECE_BYTES),
            headers,
        })
    }
}

impl Drop for NbdQueue {
    fn drop(&mut self) {
        self.shared.queues.fetch_sub(1, SeqCst);
    }
}

impl QueueTarget for NbdQueue {
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        if encode(request, tag.into()).is_none() {
            return Progress::Done(-libc::EOPNOTSUPP);
        }
        self.fail_late(tag, io);
        self.look();
        if let Link::Down { is_given_up: true, .. } = self.link {
            return Progress::Done(-libc::EIO);
        }
        let place = self.waiting.len() as u32;
        self.slots[usize::from(tag)] = Slot::new(*request, place);
        self.waiting.push(tag);
        self.watch.begun(tag);
        if let Link::Up(_) = self.link {
            self.ask(tag, Stage::Whole);
        }
        self.go_on(io);
        Progress::Waiting
    }

    fn resume(&mut self, tag: u16, _request: &Request, part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        if part != WOKEN {
            self.slots[usize::from(tag)].open -= 1;
        }
        match part {
            SEND => self.sent(tag, result),
            RECEIVE_HEADER => self.header_received(tag, result, io),
            RECEIVE_DATA => self.data_received(tag, result, io),
            LOOK => self.looked(tag, io),
            _ => {} // woken: there is an answer
        }
        self.go_on(io);
        match self.slots[usize::from(tag)] {
            Slot { open: 0, answer: Some(answer), .. } => {
                self.watch.ended(tag);
                Progress::Done(answer)
            }
            _ => Progress::Waiting,
        }
    }
}

impl NbdQueue {
    /// Starts what can be started: the next send, the next receive, or the way to a new connection.
    fn go_on(&mut self, io: &mut Io<'_>) {
        if !self.is_sending && !self.is_receiving && matches!(self.link, Link::Ending { .. }) {
            self.link = Link::Down { reconnection: None, since: Instant::now(), is_given_up: false };
            self.look();
        }
        match &self.link {
            Link::Up(connection) => {
                let socket = connection.socket.as_fd().as_raw_fd();
                self.send_next(socket, io);
                self.receive_next(socket, io);
            }
            Link::Ending { .. } => {}
            Link::Down { .. } => {
                if let Some(&tag) = self.waiting.first().filter(|_| !self.is_looking) {
                    self.is_looking = true;
                    self.slots[usize::from(tag)].open += 1;
                    io.at(tag).delay(LOOK, LOOK_EVERY);
                }
            }
        }
    }

    /// Has a stage of a request sent, from its beginning.
    fn ask(&mut self, tag: u16, stage: Stage) {
        let slot = &mut self.slots[usize::from(tag)];
        (slot.stage, slot.sent, slot.received) = (stage, 0, 0);
        let mut asked = slot.request;
        if stage == Stage::Flush {
            asked.op = Op::Flush;
            asked.len_bytes = 0;
        }
        if !self.shared.export.has(Export::FUA) {
            asked.flags -= IoFlags::FUA;
        }
        if let Some(header) = encode(&asked, tag.into()) {
            self.headers.copy_in(usize::from(tag) * HEADER_SPACE, &header);
            self.to_send.push_back(tag);
        }
    }

    /// The write is to be followed by a flush.
    fn wants_flush(&self, request: &Request) -> bool {
        request.is_fua() && matches!(request.op, Op::Write | Op::WriteZeroes) && !self.shared.export.has(Export::FUA)
    }

    fn send_next(&mut self, socket: RawFd, io: &mut Io<'_>) {
        if self.is_sending {
            return;
        }
        let Some(tag) = self.to_send.pop_front() else { return };
        let slot = self.slots[usize::from(tag)];
        let header_bytes = REQUEST_BYTES as u32;
        let step = if slot.sent < header_bytes {
            let address = self.header(usize::from(tag), slot.sent);
            SocketIo::SendFrom { address, length: header_bytes - slot.sent, has_more: slot.length() > header_bytes }
        } else {
            let length = (slot.length() - slot.sent).min(self.piece_bytes);
            SocketIo::Send { data_offset: slot.sent - header_bytes, length }
        };
        self.is_sending = true;
        self.watch.sent(tag);
        self.slots[usize::from(tag)].open += 1;
        io.at(tag).socket(SEND, socket, step);
    }

    fn receive_next(&mut self, socket: RawFd, io: &mut Io<'_>) {
        let (tag, part, step) = match (self.reading, self.waiting.last()) {
            _ if self.is_receiving => return,
            (Some(tag), _) => {
                let Slot { received, request, .. } = self.slots[usize::from(tag)];
                let length = (request.len_bytes - received).min(self.piece_bytes);
                (tag, RECEIVE_DATA, SocketIo::Receive { data_offset: received, length })
            }
            (None, Some(&tag)) => {
                let (done, length) = (self.header_received, REPLY_BYTES as u32);
                let address = self.header(self.slots.len(), done);
                (tag, RECEIVE_HEADER, SocketIo::ReceiveTo { address, length: length - done })
            }
            (None, None) => return,
        };
        self.is_receiving = true;
        self.slots[usize::from(tag)].open += 1;
        io.at(tag).socket(part, socket, step);
    }

    fn sent(&mut self, tag: u16, result: i32) {
        self.is_sending = false;
        let Some(bytes) = self.taken(result) else { return };
        self.watch.sent(tag);
        let slot = &mut self.slots[usize::from(tag)];
        slot.sent += bytes;
        if slot.sent < slot.length() {
            // Also when its reply is there already: the server takes the rest for its data.
            self.to_send.push_front(tag);
        } else if slot.stage == Stage::Written {
            self.ask(tag, Stage::Flush);
        }
    }

    fn header_received(&mut self, tag: u16, result: i32, io: &mut Io<'_>) {
        self.is_receiving = false;
        let Some(bytes) = self.taken(result) else { return };
        self.header_received += bytes;
        if self.header_received < REPLY_BYTES as u32 {
            return;
        }
        self.header_received = 0;
        let mut reply = [0; REPLY_BYTES];
        self.headers.copy_out(self.slots.len() * HEADER_SPACE, &mut reply);
        let Some((cookie, errno)) = decode(&reply) else { return self.lose("it sent something that is no reply") };
        let Some(of) = self.waiting_for(cookie) else { return self.lose("it answered what was not asked") };
        let slot = self.slots[usize::from(of)];
        let request = slot.request;
        match (errno, request.op) {
            (0, Op::Read) => {
                self.reading = Some(of);
                self.reading_since = self.watch.looks();
            }
            _ if slot.stage == Stage::Written => self.lose("it answered what was not asked"),
            (0, _) if slot.stage == Stage::Whole && self.wants_flush(&request) => {
                if slot.sent == slot.length() {
                    self.ask(of, Stage::Flush);
                } else {
                    self.slots[usize::from(of)].stage = Stage::Written;
                }
            }
            (0, _) => self.answer(of, request.done_bytes(), tag, io),
            _ => self.answer(of, errno, tag, io),
        }
    }

    fn data_received(&mut self, tag: u16, result: i32, io: &mut Io<'_>) {
        self.is_receiving = false;
        let Some(bytes) = self.taken(result) else { return };
        self.watch.flowed(self.reading_since);
        let slot = &mut self.slots[usize::from(tag)];
        slot.received += bytes;
        if slot.received == slot.request.len_bytes {
            let done = slot.request.done_bytes();
            self.reading = None;
            self.answer(tag, done, tag, io);
        }
    }

    /// Bytes that an operation of the connection has moved; None when the connection is lost, which this notices.
    fn taken(&mut self, result: i32) -> Option<u32> {
        match result {
            _ if !matches!(self.link, Link::Up(_)) => None,
            1.. => Some(result as u32),
            errno if errno == -libc::EAGAIN || errno == -libc::EINTR => Some(0),
            end => {
                self.lose(&self.why(end));
                None
            }
        }
    }

    /// What ended the connection, when `end` came of an operation on it.
    #[cold]
    fn why(&self, end: i32) -> String {
        if let Some(limit) = self.watch.passed() {
            return format!("a request had no answer after {} s", limit.as_secs_f64());
        }
        let tunnel = match &self.link {
            Link::Up(connection) => connection.tunnel.as_ref(),
            _ => None,
        };
        match tunnel.and_then(Tunnel::end) {
            Some(why) => why.to_owned(),
            None if end == 0 => "the server hung up".to_owned(),
            None => words(&std::io::Error::from_raw_os_error(-end)),
        }
    }

    fn waiting_for(&self, cookie: u64) -> Option<u16> {
        let tag = u16::try_from(cookie).ok()?;
        let slot = self.slots.get(usize::from(tag))?;
        (self.waiting.get(slot.place as usize) == Some(&tag)).then_some(tag)
    }

    /// A request has its result. Its end follows that of an operation of its own which is still open, or has just come; else it is woken.
    fn answer(&mut self, tag: u16, result: i32, current: u16, io: &mut Io<'_>) {
        let slot = &mut self.slots[usize::from(tag)];
        slot.answer = Some(result);
        let place = slot.place as usize;
        if slot.open == 0 && tag != current {
            io.wake(tag);
        }
        self.waiting.swap_remove(place);
        if let Some(&moved) = self.waiting.get(place) {
            self.slots[usize::from(moved)].place = place as u32;
        }
    }

    /// Ends the connection: its operations come back, and then there will be another one.
    #[cold]
    fn lose(&mut self, why: &str) {
        let none = Link::Down { reconnection: None, since: Instant::now(), is_given_up: false };
        let Link::Up(connection) = std::mem::replace(&mut self.link, none) else { return };
        let server = &self.shared.options.address;
        self.shared.tell(format!("the connection to {server} is lost ({why}); it is being made again"));
        connection.socket.hang_up();
        self.link = Link::Ending { _socket: connection };
        self.watch.leave(&self.waiting);
        if self.shared.options.request_timeout.is_some() {
            let now = Instant::now();
            for &tag in &self.waiting {
                self.slots[usize::from(tag)].lost.get_or_insert(now);
            }
        }
        self.to_send.clear();
        self.reading = None;
        self.header_received = 0;
    }

    /// Takes a new connection if there is one, and sends again what has no reply.
    fn look(&mut self) {
        let Link::Down { reconnection, .. } = &mut self.link else { return };
        let Some(making) = reconnection else {
            *reconnection = Reconnection::begin(Arc::clone(&self.shared.options), self.shared.export).ok();
            return;
        };
        let Some(connection) = making.take() else { return };
        self.shared.tell(format!("there is a new connection to {}", self.shared.options.address));
        self.watch.follow(&connection.socket);
        self.link = Link::Up(connection);
        // Also what was written and not flushed: the other end may have lost it.
        for index in 0..self.waiting.len() {
            self.ask(self.waiting[index], Stage::Whole);
        }
    }

    fn looked(&mut self, current: u16, io: &mut Io<'_>) {
        self.is_looking = false;
        self.fail_late(current, io);
        self.look();
        let patience = self.shared.options.patience;
        let failure = match &mut self.link {
            Link::Down { since, is_given_up, reconnection } if since.elapsed() >= patience => {
                *is_given_up = true;
                reconnection.as_ref().and_then(Reconnection::failure)
            }
            _ => return,
        };
        let server = &self.shared.options.address;
        let seconds = patience.as_secs_f64();
        let why = failure.map(|failure| format!(" ({failure})")).unwrap_or_default();
        self.shared.tell(format!(
            "there is no new connection to {server} after {seconds} s{why}; until there is, requests fail"
        ));
        while let Some(&tag) = self.waiting.last() {
            self.answer(tag, -libc::EIO, current, io);
        }
    }

    /// Fails the requests whose time is over. Before every look: with a new connection they would be sent again.
    fn fail_late(&mut self, current: u16, io: &mut Io<'_>) {
        if !matches!(self.link, Link::Down { .. }) {
            return;
        }
        let patience = self.shared.options.patience;
        let mut failed = 0;
        // From the end: an answer puts the last one in its place.
        for index in (0..self.waiting.len()).rev() {
            let tag = self.waiting[index];
            let is_lost = self.slots[usize::from(tag)].lost.is_some_and(|since| since.elapsed() >= patience);
            if is_lost || self.watch.is_over(tag) {
                failed += 1;
                self.answer(tag, -libc::EIO, current, io);
            }
        }
        if failed > 0 {
            let server = &self.shared.options.address;
            let requests = if failed == 1 { "1 request fails".into() } else { format!("{failed} requests fail") };
            self.shared.tell(format!("{requests}: no answer of {server} in time"));
        }
    }

    #[allow(unsafe_code)]
    fn header(&self, index: usize, offset: u32) -> BufferAddress {
        let address = self.headers.address(index * HEADER_SPACE + offset as usize, HEADER_SPACE - offset as usize);
        // SAFETY: the mapping lives in the target, which outlives the queue; Rust touches it by raw copies only.
        unsafe { BufferAddress::new(address) }
    }
}
