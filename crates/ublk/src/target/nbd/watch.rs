//! Watches the connection of one queue: a server that takes requests and does not answer is as lost as one that hangs up.
//!
//! A thread looks once in a tick, and hangs up: the queue's operations come back, and what follows is that of any lost connection (queue.rs).
//! The queue's thread notes after which look something happens to a request: a load and a store, no clock and no timer. (A timer on the ring
//! would be one of a request's operations, and that request would wait for its end.)
//!
//! Two things are counted. Looks are a tick or more apart, so a thread that is late takes nothing from the server's time. Ticks are those of the
//! clock, so a request's time in all ends with them, late or not.
//!
//! Thread: one for each queue that has a limit, which ends with it; all methods of [`Watch`] are the queue's.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::lock;
use super::socket::Socket;

/// Ticks of the shortest limit: how exact it is.
const TICKS: u32 = 8;
const SHORTEST_TICK: Duration = Duration::from_millis(10);
const LONGEST_TICK: Duration = Duration::from_secs(1);

/// An answer whose data takes so many looks is a long one: it takes more than a tick for certain.
const LONG_LOOKS: u64 = 2;

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From its last byte to its answer. Never cut short.
    pub(super) answer: Option<Duration>,
    /// From its beginning to its end, whatever the server does. Not exceeded, or by no more than this thread is late.
    pub(super) whole: Option<Duration>,
}

impl Limits {
    fn tick(&self) -> Option<Duration> {
        let shortest = self.answer.into_iter().chain(self.whole).min()?;
        Some((shortest / TICKS).clamp(SHORTEST_TICK, LONGEST_TICK))
    }
}

/// The queue's side of it.
pub(super) struct Watch {
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

struct Watched {
    limits: Limits,
    tick: Duration,
    /// Looks so far, from 1 on; always 1 without limits, as ticks are.
    looks: AtomicU64,
    /// Ticks at the last look, from 1 on.
    ticks: AtomicU64,
    /// The last look before data of a long answer came: while it comes, no other answer can.
    flowed: AtomicU64,
    requests: Box<[Times]>,
    /// The thread keeps it while it looks, so that it never hangs up a connection by what it saw of another one.
    seat: Mutex<Seat>,
    is_over: AtomicBool,
}

/// What is noted of one request; 0 is nothing.
#[derive(Default)]
struct Times {
    /// Ticks at its beginning.
    began: AtomicU64,
    /// Looks when the socket has last taken something of it.
    sent: AtomicU64,
}

#[derive(Default)]
struct Seat {
    socket: Option<Arc<Socket>>,
    /// The limit for which it was hung up.
    passed: Option<Duration>,
}

impl Watch {
    /// # Errors
    /// No thread.
    pub(super) fn begin(tags: usize, limits: Limits) -> io::Result<Watch> {
        let tick = limits.tick();
        let watched = Arc::new(Watched {
            limits,
            tick: tick.unwrap_or_default(),
            looks: AtomicU64::new(1),
            ticks: AtomicU64::new(1),
            flowed: AtomicU64::new(0),
            requests: (0..tags).map(|_| Times::default()).collect(),
            seat: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&watched);
        let thread = tick
            .map(|_| thread::Builder::new().name("ublk-nbd-watch".into()).spawn(move || of_thread.watch()))
            .transpose()?;
        Ok(Watch { watched, thread })
    }

    /// The connection to watch from now on: nothing has been sent over it.
    pub(super) fn follow(&self, socket: &Arc<Socket>) {
        *lock(&self.watched.seat) = Seat { socket: Some(Arc::clone(socket)), passed: None };
    }

    /// The connection is lost: `waiting` are to be sent again.
    pub(super) fn leave(&self, waiting: &[u16]) {
        *lock(&self.watched.seat) = Seat::default();
        for &tag in waiting {
            self.times(tag).sent.store(0, Relaxed);
        }
    }

    /// The limit for which the connection was hung up, if it was.
    pub(super) fn passed(&self) -> Option<Duration> {
        lock(&self.watched.seat).passed
    }

    #[inline]
    pub(super) fn begun(&self, tag: u16) {
        let times = self.times(tag);
        times.began.store(self.watched.ticks.load(Relaxed), Relaxed);
        times.sent.store(0, Relaxed);
    }

    /// Something of it is sent, or has been.
    #[inline]
    pub(super) fn sent(&self, tag: u16) {
        self.times(tag).sent.store(self.looks(), Relaxed);
    }

    /// Data of an answer has come that began after look `since`.
    #[inline]
    pub(super) fn flowed(&self, since: u64) {
        let looks = self.looks();
        if looks - since >= LONG_LOOKS {
            self.watched.flowed.store(looks, Relaxed);
        }
    }

    #[inline]
    pub(super) fn ended(&self, tag: u16) {
        let times = self.times(tag);
        times.began.store(0, Relaxed);
        times.sent.store(0, Relaxed);
    }

    #[inline]
    pub(super) fn looks(&self) -> u64 {
        self.watched.looks.load(Relaxed)
    }

    /// Whether its whole time is over.
    pub(super) fn is_over(&self, tag: u16) -> bool {
        self.watched.is_over_whole(self.times(tag))
    }

    #[inline]
    fn times(&self, tag: u16) -> &Times {
        &self.watched.requests[usize::from(tag)]
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watched.is_over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Watched {
    fn watch(&self) {
        let begin = Instant::now();
        while !self.is_over.load(Relaxed) {
            let woken = Instant::now();
            let ticks = woken.duration_since(begin).as_nanos() / self.tick.as_nanos();
            self.ticks.store(1 + ticks as u64, Relaxed);
            self.looks.fetch_add(1, Relaxed);
            self.look();
            while let Some(rest) = self.tick.checked_sub(woken.elapsed()).filter(|_| !self.is_over.load(Relaxed)) {
                thread::park_timeout(rest);
            }
        }
    }

    /// Hangs up when a request has waited too long.
    fn look(&self) {
        let mut seat = lock(&self.seat);
        if seat.socket.is_none() {
            return;
        }
        let Some(limit) = self.requests.iter().find_map(|times| self.passed(times)) else { return };
        seat.passed = Some(limit);
        if let Some(socket) = seat.socket.take() {
            socket.hang_up();
        }
    }

    /// The limit that a request has passed, if it has.
    fn passed(&self, times: &Times) -> Option<Duration> {
        let sent = times.sent.load(Relaxed);
        let looks = self.looks.load(Relaxed) - sent.max(self.flowed.load(Relaxed));
        // One more than the limit has: the first may have come at once.
        let is_late =
            |limit: &Duration| sent != 0 && u128::from(looks) > limit.as_nanos().div_ceil(self.tick.as_nanos());
        let whole = self.limits.whole.filter(|_| self.is_over_whole(times));
        whole.or(self.limits.answer.filter(is_late))
    }

    fn is_over_whole(&self, times: &Times) -> bool {
        let began = times.began.load(Relaxed);
        let ticks = self.ticks.load(Relaxed) - began;
        // None more: that it began some time after the tick makes it earlier.
        self.limits
            .whole
            .is_some_and(|limit| began != 0 && u128::from(ticks) >= (limit.as_nanos() / self.tick.as_nanos()).max(1))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(400);

    /// A watch over one end of a pair, and the other end, which a hang-up ends.
    fn watched(answer: Option<Duration>, whole: Option<Duration>) -> (Watch, Socket) {
        let (near, far) = Socket::pair().unwrap();
        let watch = Watch::begin(2, Limits { answer, whole }).unwrap();
        watch.follow(&Arc::new(near));
        far.set_limit(Some(LIMIT * 20)).unwrap();
        (watch, far)
    }

    /// Time until the other end is hung up.
    fn time_to_the_end(mut far: Socket) -> Duration {
        let begin = Instant::now();
        assert_eq!(far.read(&mut [0]).expect("it is hung up"), 0);
        begin.elapsed()
    }

    fn is_up(far: &mut Socket) -> bool {
        far.set_limit(Some(Duration::from_millis(1))).unwrap();
        far.read(&mut [0]).is_err()
    }

    #[test]
    fn a_request_without_an_answer_ends_its_connection_and_not_before_its_time() {
        let (watch, far) = watched(Some(LIMIT), None);
        watch.begun(1);
        watch.sent(1);
        let time = time_to_the_end(far);
        assert!(time >= LIMIT && watch.passed() == Some(LIMIT), "{time:?} {:?}", watch.passed());
        watch.leave(&[1]);
        assert_eq!(watch.passed(), None);
    }

    #[test]
    fn what_is_answered_or_not_sent_yet_ends_nothing() {
        let (watch, mut far) = watched(Some(LIMIT), None);
        watch.begun(0);
        watch.begun(1);
        watch.sent(1);
        watch.ended(1);
        thread::sleep(LIMIT * 3);
        assert!(is_up(&mut far));
    }

    #[test]
    fn a_long_answer_that_flows_is_waited_for_by_all_and_not_beyond_the_whole_time() {
        let (watch, mut far) = watched(Some(LIMIT), Some(LIMIT * 4));
        let since = watch.looks();
        for tag in [0, 1] {
            watch.begun(tag);
            watch.sent(tag);
        }
        let begin = Instant::now();
        while begin.elapsed() < LIMIT * 3 {
            assert!(is_up(&mut far));
            watch.flowed(since);
        }
        while !watch.is_over(1) {
            assert!(begin.elapsed() < LIMIT * 5);
            watch.flowed(since);
            thread::sleep(SHORTEST_TICK);
        }
        assert!(time_to_the_end(far) < LIMIT);
        assert_eq!(watch.passed(), Some(LIMIT * 4));
    }

    #[test]
    fn short_answers_do_not_hide_a_request_that_gets_none() {
        let (watch, far) = watched(Some(LIMIT), None);
        watch.begun(0);
        watch.sent(0);
        let ends = thread::spawn(move || time_to_the_end(far));
        while !ends.is_finished() {
            watch.flowed(watch.looks());
            thread::sleep(SHORTEST_TICK);
        }
        assert!(ends.join().unwrap() < LIMIT * 4);
    }

    #[test]
    fn without_limits_there_is_no_thread() {
        assert!(watched(None, None).0.thread.is_none());
    }
}
